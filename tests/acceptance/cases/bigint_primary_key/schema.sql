CREATE TABLE account (
    id      int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner   int CONSTRAINT owner REFERENCES account (id) ON DELETE SET NULL,
    visits  smallint NOT NULL DEFAULT 3 CHECK (visits > 0)
);
CREATE TABLE entry (
    id         serial PRIMARY KEY,
    account_id int NOT NULL REFERENCES account (id) ON DELETE CASCADE ON UPDATE CASCADE,
    number     int NOT NULL UNIQUE,
    label      text
);
CREATE INDEX entry_account ON entry (account_id, label);
COMMENT ON COLUMN account.id IS 'given by the server';
INSERT INTO account (owner) SELECT nullif(n % 7, 0) FROM generate_series(1, 200) AS n;
INSERT INTO entry (account_id, number, label) SELECT n, n, 'entry ' || n FROM generate_series(1, 200) AS n;
