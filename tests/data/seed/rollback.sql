DROP TABLE IF EXISTS water_intake_v2;
DROP INDEX IF EXISTS idx_intake_recent;
ALTER TABLE users DROP COLUMN display_name, DROP COLUMN notification_enabled;
