-- The ledger, version 3: what Lockstep knows about its migrations of this database, kept beside the data so that both
-- commit together. Applied by tasks.database.ledger.install under an advisory lock, to an older version too: every
-- statement may run again.
-- Application roles need no right here: the sync functions are SECURITY DEFINER.

CREATE SCHEMA IF NOT EXISTS lockstep;

CREATE TABLE IF NOT EXISTS lockstep.version (
    version      int NOT NULL PRIMARY KEY,
    installed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One row a migration. `token` is the fencing token: every step and batch locks this row FOR SHARE and compares it, so
-- that raising it waits for commits in flight and shuts out whoever still holds the old number. Heartbeats are in
-- lockstep.lease, because a long step would make them wait here.
CREATE TABLE IF NOT EXISTS lockstep.migration (
    name        text PRIMARY KEY,
    state       text NOT NULL CHECK (state IN ('planned', 'running', 'waiting', 'failed', 'rolling_back',
                                               'rolled_back', 'finished', 'cleaned')),
    plan        jsonb NOT NULL,
    spec        text NOT NULL,
    change_hash text NOT NULL,
    tables      text[] NOT NULL,
    token       bigint NOT NULL DEFAULT 0,
    switched_at timestamptz,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    error       text
);

CREATE TABLE IF NOT EXISTS lockstep.phase (
    migration   text NOT NULL REFERENCES lockstep.migration ON DELETE CASCADE,
    phase       text NOT NULL,
    position    int NOT NULL,
    state       text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'running', 'failed', 'done', 'undone')),
    attempts    int NOT NULL DEFAULT 0,
    started_at  timestamptz,
    finished_at timestamptz,
    error       text,
    PRIMARY KEY (migration, phase)
);

CREATE TABLE IF NOT EXISTS lockstep.step (
    migration   text NOT NULL,
    phase       text NOT NULL,
    step        text NOT NULL,
    position    int NOT NULL,
    state       text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'running', 'done', 'undone')),
    undone      int NOT NULL DEFAULT 0,     -- how many of its undo actions are committed
    started_at  timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (migration, step),
    FOREIGN KEY (migration, phase) REFERENCES lockstep.phase ON DELETE CASCADE
);

-- The cursor is a JSON array with the key's columns as text; it commits with the batch that it stands behind.
CREATE TABLE IF NOT EXISTS lockstep.progress (
    migration  text NOT NULL,
    step       text NOT NULL,
    cursor     jsonb,
    rows_done  bigint NOT NULL DEFAULT 0,
    rows_total bigint,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (migration, step)
);

CREATE TABLE IF NOT EXISTS lockstep.gate_result (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration text NOT NULL,
    phase     text NOT NULL,
    gate      text NOT NULL,
    success   boolean NOT NULL,
    result    jsonb NOT NULL,
    at        timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE IF NOT EXISTS lockstep.approval (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration  text NOT NULL,
    phase      text NOT NULL,
    decision   text NOT NULL CHECK (decision IN ('approved', 'rejected')),
    who        text NOT NULL,
    why        text NOT NULL DEFAULT '',
    waive_soak boolean NOT NULL DEFAULT false,
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE IF NOT EXISTS lockstep.event (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration text NOT NULL,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind      text NOT NULL,
    detail    jsonb NOT NULL DEFAULT '{}'
);

-- Who runs a migration now; released between phases. `started_at` is when the holder's process began.
CREATE TABLE IF NOT EXISTS lockstep.lease (
    migration  text PRIMARY KEY,
    token      bigint NOT NULL,
    host       text NOT NULL,
    pid        int NOT NULL,
    started_at timestamptz NOT NULL,
    since      timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL
);

-- Every server session that a runner uses, recorded before use, so that a successor can end it.
CREATE TABLE IF NOT EXISTS lockstep.session (
    migration     text NOT NULL,
    token         bigint NOT NULL,
    pid           int NOT NULL,
    backend_start timestamptz NOT NULL,
    role          text NOT NULL,
    PRIMARY KEY (migration, pid, backend_start)
);

-- Rows that sync (in the application's own transaction) or the backfill could not bring into the other shape. The key is
-- the primary key as JSON text, or its md5 when the key is personal. No foreign key: it would lock the migration's row
-- in the application's transactions.
CREATE TABLE IF NOT EXISTS lockstep.sync_failure (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration   text NOT NULL,
    table_name  text NOT NULL,
    key         text,
    sqlstate    text,
    direction   text NOT NULL CHECK (direction IN ('up', 'down')),
    kind        text NOT NULL CHECK (kind IN ('failure', 'conflict')),
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    resolved_at timestamptz
);
CREATE INDEX IF NOT EXISTS sync_failure_open ON lockstep.sync_failure (migration, table_name, md5(key))
    WHERE resolved_at IS NULL;

-- Sessions that wrote the old shape after the switch. Without backend_start, which the SECURITY DEFINER trigger that
-- writes here may not see of other roles: whoever has the pid and started before last_at is the one.
CREATE TABLE IF NOT EXISTS lockstep.old_write (
    migration        text NOT NULL,
    table_name       text NOT NULL,
    pid              int NOT NULL,
    application_name text,
    role_name        text,
    last_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (migration, table_name, pid)
);

-- What people ask of a migration while it runs, and what its runner last saw of the server (version 2). Without a
-- reference to the migration's row, so that asking waits for no step.
CREATE TABLE IF NOT EXISTS lockstep.throttle (
    migration  text PRIMARY KEY,
    limits     jsonb NOT NULL DEFAULT '{}',     -- those that differ from the plan's
    paused_at  timestamptz,
    paused_by  text,
    paused_why text,
    reasons    text[] NOT NULL DEFAULT '{}',    -- why it waits now, empty when it does not
    since      timestamptz,
    load       jsonb,
    looked_at  timestamptz
);

-- What the scripts of a runbook have done by hand (version 3). A migration is carried out by them or by a runner.
CREATE TABLE IF NOT EXISTS lockstep.runbook (
    migration text NOT NULL,
    step      text NOT NULL,
    state     text NOT NULL CHECK (state IN ('begun', 'done')),
    undone    int NOT NULL DEFAULT 0,       -- how many of its undo actions are committed
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (migration, step)
);

INSERT INTO lockstep.version (version) VALUES (3) ON CONFLICT DO NOTHING;
