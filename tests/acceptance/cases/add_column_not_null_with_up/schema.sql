CREATE TABLE parcel (
    id      int PRIMARY KEY,
    gram    int NOT NULL CHECK (gram >= 0),
    comment text
);
INSERT INTO parcel SELECT n, n * 10, nullif(n % 3, 0)::text FROM generate_series(1, 200) AS n;
