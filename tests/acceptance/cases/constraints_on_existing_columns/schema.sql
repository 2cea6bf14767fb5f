CREATE TABLE customer (
    id    int PRIMARY KEY,
    email text
);
CREATE TABLE purchase (
    id          int PRIMARY KEY,
    customer_id int,
    cents       int CHECK (cents > -1000),
    state       text NOT NULL DEFAULT 'new',
    remark      text NOT NULL
);
CREATE INDEX purchase_customer ON purchase (customer_id);
INSERT INTO customer SELECT n, 'person' || n || '@example.com' FROM generate_series(1, 1000) AS n;
INSERT INTO purchase SELECT n, n, n * 10, 'new', '' FROM generate_series(1, 200) AS n;
