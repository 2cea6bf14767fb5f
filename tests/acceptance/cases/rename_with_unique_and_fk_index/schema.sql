CREATE TABLE country (
    id   int PRIMARY KEY,
    name text NOT NULL
);
CREATE TABLE person (
    id         int PRIMARY KEY,
    email      text NOT NULL UNIQUE,
    country_id int REFERENCES country (id) ON DELETE SET NULL
);
CREATE INDEX person_country ON person (country_id);
INSERT INTO country SELECT n, 'country ' || n FROM generate_series(1, 1000) AS n;
INSERT INTO person SELECT n, 'person' || n || '@example.com', nullif(n % 5, 0) FROM generate_series(1, 200) AS n;
