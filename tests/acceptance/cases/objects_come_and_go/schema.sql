CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE person (
    id   int PRIMARY KEY,
    name text NOT NULL,
    felt mood
);
CREATE TABLE fax (
    id        int PRIMARY KEY,
    person_id int REFERENCES person (id) ON DELETE CASCADE,
    number    text NOT NULL
);
CREATE VIEW fax_numbers AS SELECT id, number FROM fax;
CREATE FUNCTION greeting(n int) RETURNS text LANGUAGE sql STABLE AS 'SELECT ''Dear '' || name FROM person WHERE id = n';
CREATE FUNCTION lower_name() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.name := lower(NEW.name); RETURN NEW; END';
CREATE FUNCTION heard() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER hears AFTER UPDATE ON person FOR EACH ROW EXECUTE FUNCTION heard();
CREATE POLICY everybody ON person USING (true);
CREATE TYPE tone AS ENUM ('low');
GRANT SELECT ON person TO PUBLIC;
INSERT INTO person SELECT n, 'person ' || n, 'glad' FROM generate_series(1, 200) AS n;
INSERT INTO fax SELECT n, n, n::text FROM generate_series(1, 200) AS n;
