CREATE TABLE person (
    id         int PRIMARY KEY,
    first_name text NOT NULL,
    last_name  text NOT NULL
);
INSERT INTO person SELECT n, 'First' || n, 'Last' || n FROM generate_series(1, 200) AS n;
