CREATE TABLE reading (
    device int NOT NULL,
    number int,
    value  int NOT NULL,
    label  text
);
CREATE INDEX reading_value ON reading (value);
CREATE INDEX reading_label ON reading (label) WITH (fillfactor = 80);
CREATE TABLE device (
    id     int PRIMARY KEY,
    serial text CONSTRAINT device_serial UNIQUE,
    kind   text CONSTRAINT device_kind CHECK (kind <> '')
);
INSERT INTO reading SELECT 1, n, n, 'label ' || n FROM generate_series(1, 200) AS n;
INSERT INTO device SELECT n, 's' || n, 'k' FROM generate_series(1, 200) AS n;
