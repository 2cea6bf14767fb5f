CREATE SCHEMA "Größe";
CREATE TABLE "Größe"."Order Line" (
    "Key"        text PRIMARY KEY,
    "select"     int NOT NULL,
    "it's ""50%"" 水" text
);
INSERT INTO "Größe"."Order Line" SELECT 'schlüssel ' || n, n, nullif(n % 4, 0)::text FROM generate_series(1, 200) AS n;
