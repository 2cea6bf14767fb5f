-- Three tables, for the three things that an UPDATE or DELETE in a change can be.
CREATE TABLE person (
    id   int PRIMARY KEY,
    name text NOT NULL
);
CREATE TABLE account (
    id     int PRIMARY KEY,
    visits int NOT NULL DEFAULT 0,
    note   text,
    owner  int NOT NULL DEFAULT 1
);
CREATE TABLE message (
    "from" text,
    number int,
    body   text,
    PRIMARY KEY ("from", number)
);
INSERT INTO person SELECT n, 'person ' || n FROM generate_series(1, 200) AS n;
INSERT INTO account SELECT n, n % 7, 'note ' || n FROM generate_series(1, 200) AS n;
INSERT INTO message SELECT 'sender ' || n % 3, n, 'body ' || n FROM generate_series(1, 200) AS n;
