CREATE TABLE person (
    id     int PRIMARY KEY,
    name   text NOT NULL,
    fax    text NOT NULL,
    pager  text,
    gender text DEFAULT 'unknown'
);
INSERT INTO person SELECT n, 'person ' || n, 'fax ' || n, nullif(n % 4, 0)::text FROM generate_series(1, 200) AS n;
