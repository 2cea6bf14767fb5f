-- What the scripts of a runbook have done by hand.
CREATE TABLE IF NOT EXISTS lockstep.runbook (
    migration text NOT NULL,
    step      text NOT NULL,
    state     text NOT NULL CHECK (state IN ('begun', 'done')),
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (migration, step)
);
