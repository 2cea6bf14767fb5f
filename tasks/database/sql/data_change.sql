-- name: begin_batch
-- A batch and its marks commit together, so a commit that a server crash loses is only done again. The sync stays on.
SELECT set_config('synchronous_commit', 'off', true)

-- name: begin_return
-- A deleted row comes back as it was, both shapes of it.
SELECT set_config('lockstep.direction', 'none', true), set_config('synchronous_commit', 'off', true)
