CREATE TABLE invoice (
    id    bigint PRIMARY KEY,
    cents int NOT NULL CHECK (cents >= 0)
);
INSERT INTO invoice SELECT n, n * 7 FROM generate_series(1, 200) AS n;
