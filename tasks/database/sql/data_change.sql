-- name: begin_batch
-- A batch and its marks commit together, so a commit that a server crash loses is only done again. The sync stays on.
SELECT set_config('synchronous_commit', 'off', true)

-- name: before_insert_triggers
-- Row triggers of the user's that see, and may suppress, each row that is inserted again (tgtype: row, before, insert).
SELECT t.tgname FROM pg_catalog.pg_trigger AS t
 WHERE t.tgrelid = %(table)s::pg_catalog.regclass AND t.tgtype & 7 = 7 AND t.tgenabled <> 'D' AND NOT t.tgisinternal
   AND NOT starts_with(t.tgname, 'zzz_lockstep')
 ORDER BY 1

-- name: begin_return
-- A deleted row comes back as it was, both shapes of it.
SELECT set_config('lockstep.direction', 'none', true), set_config('synchronous_commit', 'off', true)
