CREATE TABLE person (
    id   int PRIMARY KEY,
    name text NOT NULL
);
INSERT INTO person SELECT n, 'person ' || n FROM generate_series(1, 200) AS n;
