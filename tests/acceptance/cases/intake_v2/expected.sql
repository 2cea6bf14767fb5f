ALTER TABLE water_intake ALTER COLUMN date_time_utc TYPE timestamptz USING date_time_utc AT TIME ZONE 'UTC';
ALTER TABLE water_intake RENAME COLUMN date_time_utc TO recorded_at;
ALTER TABLE water_intake ADD COLUMN volume_ml numeric(8,2) CHECK (volume_ml > 0);
UPDATE water_intake SET volume_ml = CASE volume_unit WHEN 'OZ' THEN volume * 29.5735 ELSE volume END;
ALTER TABLE water_intake ALTER COLUMN volume_ml SET NOT NULL;
ALTER TABLE water_intake DROP COLUMN volume, DROP COLUMN volume_unit;
ALTER TABLE users ADD COLUMN notification_enabled boolean NOT NULL DEFAULT true;
CREATE INDEX idx_intake_user_recorded ON water_intake (user_id, recorded_at DESC);
