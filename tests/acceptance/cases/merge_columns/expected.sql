ALTER TABLE person ADD COLUMN full_name text;
UPDATE person SET full_name = first_name || ' ' || last_name;
ALTER TABLE person ALTER COLUMN full_name SET NOT NULL, DROP COLUMN first_name, DROP COLUMN last_name;
