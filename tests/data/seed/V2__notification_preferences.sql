-- A column with a default, and one that is populated.
ALTER TABLE users ADD COLUMN notification_enabled boolean NOT NULL DEFAULT true;
ALTER TABLE users ADD COLUMN display_name text;
UPDATE users SET display_name = coalesce(full_name, split_part(email, '@', 1));
