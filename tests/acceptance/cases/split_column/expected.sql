ALTER TABLE person ADD COLUMN first_name text, ADD COLUMN last_name text;
UPDATE person SET
    first_name = split_part(full_name, ' ', 1),
    last_name = substr(full_name, length(split_part(full_name, ' ', 1)) + 2);
ALTER TABLE person ALTER COLUMN first_name SET NOT NULL, ALTER COLUMN last_name SET NOT NULL, DROP COLUMN full_name;
