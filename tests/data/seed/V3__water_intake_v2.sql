-- A shadow table by hand: the new shape, filled from the old one.
CREATE TABLE water_intake_v2 (
    id          bigint PRIMARY KEY,
    user_id     bigint NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    recorded_at timestamptz NOT NULL,
    volume_ml   numeric(8,2) CHECK (volume_ml > 0)
);
INSERT INTO water_intake_v2 (id, user_id, recorded_at)
SELECT id, user_id, date_time_utc AT TIME ZONE 'UTC' FROM water_intake;
