-- The live facts: each statement is one section of tasks.database.live, in a read-only transaction of its own with an
-- empty search_path. All of them run on PostgreSQL 13 to 18 (what a version lacks is asked for by to_jsonb) and for a
-- role without any right: what such a role does not see is NULL, or missing, and `sight` says so.

-- name: sight
SELECT current_setting('server_version_num')::int AS server_version, current_database()::text AS database,
       current_user::text AS role, clock_timestamp() AS taken_at,
       pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all,
       current_setting('block_size')::int AS block_size,
       current_setting('track_counts')::bool AS counts,
       (SELECT d.stats_reset FROM pg_catalog.pg_stat_database AS d WHERE d.datname = current_database()) AS counted_since

-- name: relations
-- What `sizes`, `size_estimates` and `tables` begin with: the tables, and the leaves of each, a plain one's being itself.
-- From pg_inherits, since pg_partition_tree locks every partition until the transaction ends.
WITH RECURSIVE relation AS (
    SELECT c.oid, n.nspname, c.relname, c.relkind, c.relispartition, c.reltuples, c.relpages, c.reloptions
      FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't'
       AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lockstep')
), tree AS (
    SELECT r.oid, r.oid AS part, r.relkind FROM relation AS r
    UNION ALL
    SELECT t.oid, c.oid, c.relkind
      FROM tree AS t JOIN pg_catalog.pg_inherits AS h ON h.inhparent = t.part
      JOIN pg_catalog.pg_class AS c ON c.oid = h.inhrelid
     WHERE t.relkind = 'p'
), leaf AS (
    SELECT t.oid, t.part AS leaf FROM tree AS t WHERE t.relkind <> 'p'
)

-- name: sizes
-- Sizes are the files' own, read under ACCESS SHARE: behind an ACCESS EXCLUSIVE lock this gives up, see `size_estimates`.
-- A partitioned table's are those of its leaves together.
SELECT r.nspname AS schema, r.relname AS name,
       coalesce(sum(pg_catalog.pg_relation_size(l.leaf)), 0)::bigint AS heap_bytes,
       coalesce(sum(pg_catalog.pg_total_relation_size(nullif(c.reltoastrelid, 0))), 0)::bigint AS toast_bytes,
       coalesce(sum(pg_catalog.pg_indexes_size(l.leaf)), 0)::bigint AS index_bytes
  FROM relation AS r LEFT JOIN leaf AS l ON l.oid = r.oid LEFT JOIN pg_catalog.pg_class AS c ON c.oid = l.leaf
 GROUP BY r.oid, r.nspname, r.relname

-- name: size_estimates
-- The same from pg_class, as of the last VACUUM or ANALYZE: takes no lock on any table.
, block AS (
    SELECT current_setting('block_size')::bigint AS size
)
SELECT r.nspname AS schema, r.relname AS name,
       coalesce(sum(c.relpages::bigint * block.size), 0)::bigint AS heap_bytes,
       coalesce(sum(t.relpages::bigint * block.size), 0)::bigint AS toast_bytes,
       coalesce(sum((SELECT sum(ic.relpages::bigint) * block.size
                       FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS ic ON ic.oid = i.indexrelid
                      WHERE i.indrelid = l.leaf)), 0)::bigint AS index_bytes
  FROM block, relation AS r LEFT JOIN leaf AS l ON l.oid = r.oid LEFT JOIN pg_catalog.pg_class AS c ON c.oid = l.leaf
  LEFT JOIN pg_catalog.pg_class AS t ON t.oid = c.reltoastrelid
 GROUP BY r.oid, r.nspname, r.relname

-- name: tables
-- Rows are the estimate of the last VACUUM or ANALYZE, NULL where there never was one (PostgreSQL 13 keeps no -1). A
-- row's width is that of the columns whose statistics the role may see: `columns_measured` of `columns`.
, width AS MATERIALIZED (
    SELECT s.schemaname, s.tablename, s.inherited, count(*)::int AS columns,
           sum(s.avg_width * (1 - s.null_frac))::float8 AS bytes, bool_or(s.null_frac > 0) AS has_nulls
      FROM pg_catalog.pg_stats AS s
     WHERE s.schemaname !~ '^pg_' AND s.schemaname NOT IN ('information_schema', 'lockstep')
     GROUP BY s.schemaname, s.tablename, s.inherited
), leaves AS (
    SELECT l.oid, sum(CASE WHEN lc.reltuples > 0 THEN lc.reltuples ELSE 0 END)::float8 AS rows,
           bool_or(lc.reltuples < 0 OR (lc.reltuples = 0 AND lc.relpages = 0 AND s.last_analyze IS NULL
                                        AND s.last_autoanalyze IS NULL)) AS unknown
      FROM relation AS r JOIN leaf AS l ON l.oid = r.oid
      JOIN pg_catalog.pg_class AS lc ON lc.oid = l.leaf
      LEFT JOIN pg_catalog.pg_stat_all_tables AS s ON s.relid = l.leaf
     WHERE r.relkind = 'p'
     GROUP BY l.oid
)
SELECT r.nspname AS schema, r.relname AS name, r.relkind::text AS kind,
       CASE WHEN r.relispartition THEN (
           SELECT ARRAY[rn.nspname::text, rc.relname::text]
             FROM pg_catalog.pg_class AS rc JOIN pg_catalog.pg_namespace AS rn ON rn.oid = rc.relnamespace
            WHERE rc.oid = pg_catalog.pg_partition_root(r.oid)) END AS root,
       CASE WHEN r.relkind = 'p' THEN CASE WHEN leaves.unknown THEN NULL ELSE coalesce(leaves.rows, 0) END
            WHEN r.reltuples < 0 THEN NULL
            WHEN r.reltuples = 0 AND r.relpages = 0 AND s.last_analyze IS NULL AND s.last_autoanalyze IS NULL
                 AND s.last_vacuum IS NULL AND s.last_autovacuum IS NULL THEN NULL
            ELSE r.reltuples END::bigint AS rows,
       coalesce(s.n_live_tup, 0)::bigint AS live_rows, coalesce(s.n_dead_tup, 0)::bigint AS dead_rows,
       coalesce(s.n_mod_since_analyze, 0)::bigint AS changed_rows,
       greatest(s.last_analyze, s.last_autoanalyze) AS analyzed_at,
       greatest(s.last_vacuum, s.last_autovacuum) AS vacuumed_at,
       coalesce(s.seq_scan, 0)::bigint AS seq_scans, coalesce(s.seq_tup_read, 0)::bigint AS seq_rows,
       coalesce(s.idx_scan, 0)::bigint AS index_scans,
       (SELECT count(*)::int FROM pg_catalog.pg_attribute AS a
         WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       coalesce(w.columns, 0) AS columns_measured, w.bytes AS data_bytes, coalesce(w.has_nulls, false) AS has_nulls,
       coalesce((SELECT substring(o FROM '^fillfactor=(\d+)$')::int FROM unnest(r.reloptions) AS o
                  WHERE o LIKE 'fillfactor=%'), 100) AS fillfactor
  FROM relation AS r
  LEFT JOIN pg_catalog.pg_stat_all_tables AS s ON s.relid = r.oid
  LEFT JOIN width AS w ON w.schemaname = r.nspname AND w.tablename = r.relname AND w.inherited = (r.relkind = 'p')
  LEFT JOIN leaves ON leaves.oid = r.oid
 ORDER BY r.nspname COLLATE "C", r.relname COLLATE "C"

-- name: indexes
-- A key is told with all that decides which searches it serves: expression, operator class, collation, direction. Only
-- expressions and predicates are printed, since that is done under ACCESS SHARE on the table. Whether
-- an index is just being built shows only to its own role and to members of pg_read_all_stats.
-- Widths are joined by one text, since the estimates for pg_stats are so low that several keys end in a nested loop.
WITH width AS MATERIALIZED (
    SELECT concat_ws('/', quote_ident(s.schemaname), quote_ident(s.tablename), quote_ident(s.attname)) AS path,
           (s.avg_width * (1 - s.null_frac))::float8 AS bytes
      FROM pg_catalog.pg_stats AS s
     WHERE NOT s.inherited AND s.schemaname !~ '^pg_' AND s.schemaname NOT IN ('information_schema', 'lockstep')
), part AS MATERIALIZED (
    -- What an expression gives is measured under the index's own name.
    SELECT i.indexrelid,
           CASE WHEN a.attnum IS NULL
                THEN concat_ws('/', quote_ident(n.nspname), quote_ident(ic.relname), quote_ident(e.attname))
                ELSE concat_ws('/', quote_ident(n.nspname), quote_ident(c.relname), quote_ident(a.attname)) END AS path
      FROM pg_catalog.pg_index AS i
      JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_class AS ic ON ic.oid = i.indexrelid
      JOIN pg_catalog.pg_attribute AS e ON e.attrelid = i.indexrelid AND e.attnum > 0
      LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[e.attnum - 1] AND a.attnum > 0
     WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lockstep')
), entry AS MATERIALIZED (
    SELECT part.indexrelid, count(*) AS measured, sum(width.bytes) AS bytes
      FROM part JOIN width ON width.path = part.path
     GROUP BY part.indexrelid
), building AS MATERIALIZED (
    SELECT p.index_relid FROM pg_catalog.pg_stat_progress_create_index AS p WHERE p.datname = current_database()
)
SELECT n.nspname AS schema, c.relname AS table_name, ic.relname AS name, am.amname AS method,
       array(SELECT concat_ws(' ', CASE WHEN i.indkey[k.n - 1] = 0 THEN pg_catalog.pg_get_indexdef(ic.oid, k.n, false)
                                        ELSE (SELECT quote_ident(a.attname) FROM pg_catalog.pg_attribute AS a
                                               WHERE a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n - 1]) END,
                              (SELECT format('%I.%I', opn.nspname, op.opcname)
                                 FROM pg_catalog.pg_opclass AS op JOIN pg_catalog.pg_namespace AS opn
                                   ON opn.oid = op.opcnamespace WHERE op.oid = i.indclass[k.n - 1]),
                              (SELECT array_to_string(a.attoptions, ',') FROM pg_catalog.pg_attribute AS a
                                WHERE a.attrelid = ic.oid AND a.attnum = k.n),
                              (SELECT format('COLLATE %I.%I', con.nspname, co.collname)
                                 FROM pg_catalog.pg_collation AS co JOIN pg_catalog.pg_namespace AS con
                                   ON con.oid = co.collnamespace WHERE co.oid = i.indcollation[k.n - 1]),
                              CASE WHEN i.indoption[k.n - 1] & 1 = 1 THEN 'DESC' END,
                              CASE WHEN i.indoption[k.n - 1] & 2 = 2 THEN 'NULLS FIRST' END)
               FROM generate_series(1, i.indnkeyatts::int) AS k (n) ORDER BY k.n) AS keys,
       array(SELECT (SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
                      WHERE a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n - 1] AND a.attnum > 0)
               FROM generate_series(1, i.indnkeyatts::int) AS k (n) ORDER BY k.n) AS columns,
       array(SELECT a.attname::text FROM generate_series(i.indnkeyatts::int + 1, i.indnatts::int) AS k (n)
               JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n - 1]
              ORDER BY k.n) AS included,
       coalesce(pg_catalog.pg_get_expr(i.indpred, i.indrelid), '') AS predicate,
       i.indisunique AS "unique", i.indisprimary AS "primary", i.indimmediate AS immediate,
       coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false) AS nulls_not_distinct,
       i.indisreplident AS replica_identity, i.indisclustered AS clustered,
       i.indisvalid AND i.indisready AS valid,
       CASE WHEN EXISTS (SELECT FROM building AS b WHERE b.index_relid = ic.oid) THEN true
            WHEN pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') THEN false END AS being_built,
       con.conname AS "constraint",
       EXISTS (SELECT FROM pg_catalog.pg_inherits AS h WHERE h.inhrelid = ic.oid) AS attached,
       con.is_referenced IS TRUE AS referenced,
       ic.relkind = 'I' AS partitioned,
       ic.relpages::bigint * current_setting('block_size')::bigint AS bytes,
       CASE WHEN ic.reltuples > 0 THEN ic.reltuples ELSE 0 END::bigint AS entries,
       coalesce(s.idx_scan, 0)::bigint AS scans,
       CASE WHEN entry.measured = i.indnatts THEN entry.bytes END AS key_bytes,
       coalesce((SELECT substring(o FROM '^fillfactor=(\d+)$')::int FROM unnest(ic.reloptions) AS o
                  WHERE o LIKE 'fillfactor=%'), 90) AS fillfactor
  FROM pg_catalog.pg_index AS i
  JOIN pg_catalog.pg_class AS ic ON ic.oid = i.indexrelid
  JOIN pg_catalog.pg_am AS am ON am.oid = ic.relam
  JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid AND c.relpersistence <> 't'
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN entry ON entry.indexrelid = ic.oid
  LEFT JOIN pg_catalog.pg_stat_all_indexes AS s ON s.indexrelid = ic.oid
  -- pg_constraint has no index on conindid: joined as a whole.
  LEFT JOIN (SELECT k.conindid, min(k.conname::text) FILTER (WHERE k.contype <> 'f') AS conname,
                    bool_or(k.contype = 'f') AS is_referenced
               FROM pg_catalog.pg_constraint AS k WHERE k.contype IN ('p', 'u', 'x', 'f')
              GROUP BY k.conindid) AS con ON con.conindid = ic.oid
 WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lockstep')
 ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C", ic.relname COLLATE "C"

-- name: foreign_keys
-- Declared ones only: those that the server keeps for partitions have a parent.
SELECT k.conname AS name, n.nspname AS schema, c.relname AS table_name, rn.nspname AS referenced_schema,
       rc.relname AS referenced_table, k.convalidated AS validated,
       k.confdeltype NOT IN ('a', 'r') OR k.confupdtype NOT IN ('a', 'r') AS acts,
       array(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS key (attnum, position)
               JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = key.attnum
              ORDER BY key.position) AS columns,
       array(SELECT a.atttypid::regtype::text FROM unnest(k.conkey) WITH ORDINALITY AS key (attnum, position)
               JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = key.attnum
              ORDER BY key.position) AS types,
       array(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS key (attnum, position)
               JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = key.attnum
              ORDER BY key.position) AS referenced
  FROM pg_catalog.pg_constraint AS k
  JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class AS rc ON rc.oid = k.confrelid
  JOIN pg_catalog.pg_namespace AS rn ON rn.oid = rc.relnamespace
 WHERE k.contype = 'f' AND k.conparentid = 0
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lockstep')
 ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C", k.conname COLLATE "C"

-- name: not_valid
-- Constraints that new rows keep to and older ones may not. One that is NOT ENFORCED (18) binds nobody.
SELECT k.conname AS name, n.nspname AS schema, c.relname AS table_name,
       CASE k.contype WHEN 'c' THEN 'check' WHEN 'f' THEN 'foreign_key' WHEN 'n' THEN 'not_null' END AS kind
  FROM pg_catalog.pg_constraint AS k
  JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE k.contype IN ('c', 'f', 'n') AND NOT k.convalidated
   AND coalesce((to_jsonb(k) ->> 'conenforced')::bool, true) AND k.conparentid = 0
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lockstep')
 ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C", k.conname COLLATE "C"

-- name: keys
-- Integer columns that get their numbers from a sequence (whose last number `last_values` tells), and integer primary keys without one (`last` is the highest number in the statistics).
WITH fed AS (
    SELECT d.refobjid AS relation, d.refobjsubid::int AS attnum, d.objid AS sequence
      FROM pg_catalog.pg_depend AS d
     WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
       AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
    UNION
    SELECT ad.adrelid, ad.adnum::int, d.refobjid
      FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_attrdef AS ad ON ad.oid = d.objid
     WHERE d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
), numbered AS (
    SELECT fed.relation, fed.attnum, fed.sequence FROM fed JOIN pg_catalog.pg_sequence AS q ON q.seqrelid = fed.sequence
    UNION ALL
    SELECT i.indrelid, i.indkey[0]::int, NULL
      FROM pg_catalog.pg_index AS i
     WHERE i.indisprimary AND i.indnkeyatts = 1
       AND NOT EXISTS (SELECT FROM fed JOIN pg_catalog.pg_sequence AS q ON q.seqrelid = fed.sequence
                        WHERE fed.relation = i.indrelid AND fed.attnum = i.indkey[0])
)
SELECT n.nspname AS schema, c.relname AS table_name, a.attname AS "column", a.atttypid::regtype::text AS type,
       CASE WHEN q.seqrelid IS NOT NULL THEN ARRAY[sn.nspname::text, sc.relname::text] END AS sequence,
       coalesce(q.seqmax, 9223372036854775807) AS sequence_max, coalesce(q.seqmin, 1) AS sequence_min,
       coalesce(q.seqincrement, 1) AS increment, coalesce(q.seqcycle, false) AS cycles,
       CASE WHEN q.seqrelid IS NULL THEN (
                SELECT greatest(h.bounds[array_upper(h.bounds, 1)], (SELECT max(v) FROM unnest(h.common) AS v))
                  FROM (SELECT s.histogram_bounds::text::bigint[] AS bounds, s.most_common_vals::text::bigint[] AS common
                          FROM pg_catalog.pg_stats AS s
                         WHERE s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname
                         ORDER BY s.inherited DESC LIMIT 1) AS h)
            END AS last,
       q.seqrelid IS NULL OR pg_catalog.has_sequence_privilege(q.seqrelid, 'SELECT, USAGE') AS seen
  FROM numbered
  JOIN pg_catalog.pg_class AS c ON c.oid = numbered.relation AND c.relkind IN ('r', 'p')
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = numbered.attnum
  LEFT JOIN pg_catalog.pg_sequence AS q ON q.seqrelid = numbered.sequence
  LEFT JOIN pg_catalog.pg_class AS sc ON sc.oid = q.seqrelid
  LEFT JOIN pg_catalog.pg_namespace AS sn ON sn.oid = sc.relnamespace
 WHERE a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) AND NOT c.relispartition
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lockstep')
 ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C", a.attnum

-- name: written
-- What was written until now, for a difference: cumulative counters of every table, and the place in the log.
SELECT clock_timestamp() AS at,
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL
            ELSE pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), '0/0')::bigint END AS wal,
       (SELECT coalesce(jsonb_agg(jsonb_build_object(
                   'table', jsonb_build_array(s.schemaname, s.relname), 'inserted', s.n_tup_ins, 'updated', s.n_tup_upd,
                   'deleted', s.n_tup_del, 'hot', s.n_tup_hot_upd)), '[]')
          FROM pg_catalog.pg_stat_user_tables AS s WHERE s.schemaname <> 'lockstep') AS tables

-- name: sequences
-- Those whose last number the role may see.
SELECT c.oid::int8 AS oid
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'lockstep'
   AND CASE WHEN c.relkind = 'S' THEN pg_catalog.has_sequence_privilege(c.oid, 'SELECT, USAGE') END
 ORDER BY c.oid

-- name: last_values
-- The last number of each, NULL before the first. Each is locked (ROW EXCLUSIVE) until the transaction ends, so only
-- some are asked for at a time: the server's lock table is the application's too.
SELECT n.nspname AS schema, c.relname AS name, pg_catalog.pg_sequence_last_value(c.oid) AS last
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.oid = ANY (%(oids)s::oid[])

-- name: transactions
-- Open transactions of this database, the oldest first, with the locks that they hold on its tables. Of other roles'
-- sessions a role without pg_read_all_stats sees no more than these locks.
WITH lock AS (
    SELECT l.pid, n.nspname, c.relname,
           upper(regexp_replace(regexp_replace(l.mode, 'Lock$', ''), '([a-z])([A-Z])', '\1 \2', 'g')) AS mode
      FROM pg_catalog.pg_locks AS l
      JOIN pg_catalog.pg_class AS c ON c.oid = l.relation AND c.relkind IN ('r', 'p', 'm', 'f')
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_catalog.pg_backend_pid()
       AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = current_database())
       AND l.mode <> 'SIReadLock' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
)
SELECT a.pid, coalesce(a.application_name, '') AS application, coalesce(a.usename::text, '') AS role,
       coalesce(a.state, '') AS state, coalesce(a.wait_event_type, '') AS waits_for,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds, coalesce(a.query, '') AS query,
       age(a.backend_xmin) IS NOT NULL OR age(a.backend_xid) IS NOT NULL AS holds_rows_back,
       (SELECT coalesce(jsonb_agg(DISTINCT jsonb_build_object(
                   'table', jsonb_build_array(l.nspname, l.relname), 'mode', l.mode)), '[]')
          FROM lock AS l WHERE l.pid = a.pid) AS holds
  FROM pg_catalog.pg_stat_activity AS a
 WHERE a.datname = current_database() AND a.pid <> pg_catalog.pg_backend_pid()
   AND coalesce(a.backend_type, 'client backend') IN ('client backend', 'walsender')
   AND NOT starts_with(coalesce(a.application_name, ''), 'lockstep:')
   AND (a.xact_start IS NOT NULL OR EXISTS (SELECT FROM lock AS l WHERE l.pid = a.pid))
 ORDER BY a.xact_start NULLS LAST, a.pid
 LIMIT %(most)s

-- name: prepared
SELECT x.gid AS name, x.owner::text AS role, extract(epoch FROM clock_timestamp() - x.prepared)::float8 AS seconds
  FROM pg_catalog.pg_prepared_xacts AS x WHERE x.database = current_database() ORDER BY x.prepared, x.gid

-- name: slots
SELECT s.slot_name::text AS name, s.slot_type::text AS kind, coalesce(s.plugin::text, '') AS plugin,
       coalesce(s.database::text, '') AS database, s.active, coalesce(s.wal_status, '') AS wal_status,
       pg_catalog.pg_wal_lsn_diff(here.lsn, s.restart_lsn)::bigint AS retained_bytes, s.safe_wal_size AS safe_bytes,
       greatest(age(s.xmin), age(s.catalog_xmin)) AS transactions
  FROM pg_catalog.pg_replication_slots AS s, (SELECT pg_catalog.pg_current_wal_insert_lsn() AS lsn) AS here
 WHERE NOT s.temporary
 ORDER BY 1

-- name: standbys
SELECT coalesce(nullif(r.application_name, ''), r.client_addr::text, r.pid::text) AS name, coalesce(r.state, '') AS state,
       coalesce(r.sync_state, '') AS sync, pg_catalog.pg_wal_lsn_diff(here.lsn, r.replay_lsn)::bigint AS behind_bytes,
       extract(epoch FROM r.replay_lag)::float8 AS behind_seconds
  FROM pg_catalog.pg_stat_replication AS r, (SELECT pg_catalog.pg_current_wal_insert_lsn() AS lsn) AS here
 ORDER BY 1

-- name: disk
-- What SQL can know of disks: how much is used by what, never how much is free.
SELECT CASE WHEN pg_catalog.has_database_privilege(current_database(), 'CONNECT')
              OR pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')
            THEN pg_catalog.pg_database_size(current_database()) END AS database_bytes,
       (SELECT jsonb_agg(jsonb_build_object(
                   'name', t.spcname,
                   'is_default', t.oid = (SELECT d.dattablespace FROM pg_catalog.pg_database AS d
                                           WHERE d.datname = current_database()),
                   'bytes', CASE WHEN pg_catalog.has_tablespace_privilege(t.oid, 'CREATE')
                                   OR pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')
                                 THEN pg_catalog.pg_tablespace_size(t.oid) END) ORDER BY t.spcname)
          FROM pg_catalog.pg_tablespace AS t WHERE t.spcname <> 'pg_global') AS tablespaces,
       pg_catalog.pg_size_bytes(current_setting('max_wal_size')) AS max_wal_bytes,
       current_setting('archive_mode') <> 'off' AS archives,
       pg_catalog.pg_size_bytes(current_setting('maintenance_work_mem')) AS sort_bytes

-- name: wal_files
SELECT coalesce(sum(f.size), 0)::bigint AS bytes FROM pg_catalog.pg_ls_waldir() AS f

-- name: publications
SELECT p.pubname::text AS name, p.puballtables AS all_tables,
       array(SELECT operation FROM (VALUES ('insert', p.pubinsert), ('update', p.pubupdate), ('delete', p.pubdelete),
                                           ('truncate', p.pubtruncate)) AS o (operation, is_sent)
              WHERE o.is_sent) AS operations,
       (SELECT coalesce(jsonb_agg(jsonb_build_array(t.schemaname, t.tablename)
                                  ORDER BY t.schemaname COLLATE "C", t.tablename COLLATE "C"), '[]')
          FROM pg_catalog.pg_publication_tables AS t WHERE t.pubname = p.pubname) AS tables
  FROM pg_catalog.pg_publication AS p ORDER BY 1

-- name: statements_extension
SELECT n.nspname::text AS schema, e.extversion AS version,
       pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS usable
  FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
 WHERE e.extname = 'pg_stat_statements'

-- name: search_in
SELECT pg_catalog.set_config('search_path', pg_catalog.quote_ident(%(schema)s), true)

-- name: statements
-- Found by search_path, which `search_in` has set. Without pg_read_all_stats other roles' have neither text nor queryid.
SELECT s.queryid::text AS queryid, s.query, sum(s.calls)::bigint AS calls, sum(s.total_exec_time)::float8 AS total_ms,
       max(s.max_exec_time)::float8 AS worst_ms, sum(s.rows)::bigint AS rows,
       sqrt(greatest(sum(s.calls * (s.stddev_exec_time ^ 2 + s.mean_exec_time ^ 2)) / nullif(sum(s.calls), 0)
            - (sum(s.total_exec_time) / nullif(sum(s.calls), 0)) ^ 2, 0))::float8 AS deviation_ms
  FROM pg_stat_statements AS s
 WHERE s.dbid = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = current_database())
   AND s.queryid IS NOT NULL AND s.calls > 0
 GROUP BY s.queryid, s.query
 ORDER BY total_ms DESC
 LIMIT %(most)s
