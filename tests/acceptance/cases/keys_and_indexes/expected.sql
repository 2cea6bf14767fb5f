ALTER TABLE reading ADD PRIMARY KEY (number, device);
DROP INDEX reading_value;
CREATE INDEX reading_value ON reading (value DESC, device) INCLUDE (label) WHERE value > 10;
CREATE UNIQUE INDEX reading_lower ON reading (lower(label), number, device);
ALTER INDEX reading_label SET (fillfactor = 60);
ALTER TABLE device DROP CONSTRAINT device_kind;
ALTER TABLE device RENAME CONSTRAINT device_serial TO device_serial_number;
ALTER TABLE device RENAME CONSTRAINT device_pkey TO device_id;
