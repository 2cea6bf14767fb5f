-- name: schema
-- Left behind by a calibration that was killed.
DROP SCHEMA IF EXISTS lockstep_calibration CASCADE;
CREATE SCHEMA lockstep_calibration

-- name: drop
DROP SCHEMA IF EXISTS lockstep_calibration CASCADE

-- name: tables
-- `result` and `pending` are what a backfill writes; the trigger is there as the sync's is, and as little called.
CREATE TABLE lockstep_calibration.parent (id bigint PRIMARY KEY);
CREATE TABLE lockstep_calibration.child (
    id bigint PRIMARY KEY, parent bigint NOT NULL, number bigint NOT NULL, result bigint,
    pending integer NOT NULL DEFAULT 1, filler text
) WITH (autovacuum_enabled = off);
ALTER TABLE lockstep_calibration.child ALTER filler SET STORAGE PLAIN;
CREATE FUNCTION lockstep_calibration.sync() RETURNS trigger LANGUAGE plpgsql AS
'BEGIN NEW.result := NEW.number * 1000; RETURN NEW; END';
CREATE TRIGGER sync BEFORE INSERT OR UPDATE ON lockstep_calibration.child FOR EACH ROW
WHEN (current_setting('lockstep.direction', true) IS DISTINCT FROM 'none') EXECUTE FUNCTION lockstep_calibration.sync()

-- name: parents
INSERT INTO lockstep_calibration.parent SELECT generate_series(0, 999)

-- name: fill
INSERT INTO lockstep_calibration.child (id, parent, number, filler)
SELECT n, n %% 1000, n, left(repeat(md5(n::text), %(filler)s::int / 32 + 1), %(filler)s::int)
  FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n

-- name: settle
VACUUM (ANALYZE) lockstep_calibration.child

-- name: scan
SELECT count(*) FROM lockstep_calibration.child WHERE number < 0

-- name: build
CREATE INDEX CONCURRENTLY child_number ON lockstep_calibration.child (number)

-- name: built
SELECT pg_catalog.pg_relation_size('lockstep_calibration.child_number')

-- name: check
ALTER TABLE lockstep_calibration.child ADD CONSTRAINT positive CHECK (number > 0 AND number < 1e15) NOT VALID

-- name: reference
ALTER TABLE lockstep_calibration.child
  ADD CONSTRAINT referring FOREIGN KEY (parent) REFERENCES lockstep_calibration.parent NOT VALID

-- name: validate_check
ALTER TABLE lockstep_calibration.child VALIDATE CONSTRAINT positive

-- name: validate_reference
ALTER TABLE lockstep_calibration.child VALIDATE CONSTRAINT referring

-- name: batch
UPDATE lockstep_calibration.child SET result = number * 1000, pending = 0
 WHERE id > %(after)s AND id <= %(upto)s AND pending <> 0

-- name: wal
SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), '0/0')::bigint

-- name: settings
-- What a scan of one table needs no help for, and what tells the sync trigger that a backfill writes.
SELECT set_config('max_parallel_workers_per_gather', '0', false), set_config('jit', 'off', false),
       set_config('max_parallel_maintenance_workers', '0', false), set_config('lockstep.direction', 'none', false)

-- name: compute
-- Work for the processor alone: reads no table, so it may be asked of a live server too.
SELECT count(md5(n::text)) FROM generate_series(1, 60000) AS n

-- name: nothing
SELECT 1

-- name: identity
-- The same for every database of a server, and for its physical copies.
SELECT s.system_identifier::text FROM pg_catalog.pg_control_system() AS s
