CREATE TABLE customer (
    id    int PRIMARY KEY,
    email text
);
CREATE TABLE purchase (
    id          int PRIMARY KEY,
    customer_id int,
    cents       int CHECK (cents > -1000),
    state       text NOT NULL DEFAULT 'new',
    remark      text NOT NULL,
    shop        int CONSTRAINT purchase_shop_fkey REFERENCES customer (id),
    pieces      int NOT NULL DEFAULT 1 CONSTRAINT purchase_pieces CHECK (pieces > 0)
);
ALTER TABLE purchase ADD CONSTRAINT purchase_id CHECK (id > 0) NOT VALID;
ALTER TABLE purchase ADD CONSTRAINT purchase_other FOREIGN KEY (shop) REFERENCES customer (id) NOT VALID;
CREATE INDEX purchase_customer ON purchase (customer_id);
INSERT INTO customer SELECT n, 'person' || n || '@example.com' FROM generate_series(1, 1000) AS n;
INSERT INTO purchase SELECT n, n, n * 10, 'new', '', n, 1 FROM generate_series(1, 200) AS n;
