CREATE TABLE seat (
    hall   text NOT NULL,
    number int NOT NULL,
    taken  boolean NOT NULL,
    price  int,
    PRIMARY KEY (hall, number)
);
INSERT INTO seat SELECT 'hall ' || n % 3, n, n % 2 = 0, nullif(n % 4, 0) FROM generate_series(1, 200) AS n;
