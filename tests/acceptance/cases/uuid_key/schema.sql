CREATE TABLE device (
    id   uuid PRIMARY KEY,
    name text NOT NULL
);
INSERT INTO device SELECT md5(n::text)::uuid, 'device ' || n FROM generate_series(1, 200) AS n;
