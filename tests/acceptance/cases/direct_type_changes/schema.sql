CREATE TABLE address (
    id     int PRIMARY KEY,
    street varchar(220) NOT NULL CHECK (street <> '' AND street ~ '[^ ]'),
    rent   numeric(8,2),
    moved  timestamp(3),
    net    cidr,
    note   varchar,
    zip    int
);
CREATE INDEX address_street ON address (street);
INSERT INTO address SELECT n, 'street ' || n, n, '2024-01-01', '10.0.0.0/8', 'n', n FROM generate_series(1, 200) AS n;
