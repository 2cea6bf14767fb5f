CREATE TABLE shelf (
    id int PRIMARY KEY
);
CREATE TABLE book (
    id       int CONSTRAINT book_key PRIMARY KEY,
    shelf_id int CONSTRAINT book_shelf REFERENCES shelf (id),
    code     text CONSTRAINT book_code UNIQUE,
    title    text NOT NULL,
    lent     boolean NOT NULL
);
CREATE UNIQUE INDEX book_place ON book (shelf_id, id) WHERE lent;
CREATE UNIQUE INDEX book_title ON book (lower(title), id);
CREATE INDEX book_cover ON book (title) INCLUDE (lent);
INSERT INTO shelf SELECT generate_series(1, 1000);
INSERT INTO book SELECT n, n, 'code ' || n, 'title ' || n, n % 2 = 0 FROM generate_series(1, 200) AS n;
