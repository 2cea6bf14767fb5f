CREATE TABLE person (
    id        int PRIMARY KEY,
    full_name text NOT NULL
);
INSERT INTO person SELECT n, 'First' || n || ' Last' || n FROM generate_series(1, 200) AS n;
INSERT INTO person VALUES (201, 'Single'), (202, 'Ana María de la Vega'), (203, '');
