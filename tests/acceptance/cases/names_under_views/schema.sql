CREATE TABLE person (
    id   int PRIMARY KEY,
    name text NOT NULL,
    town text
);
CREATE TABLE label (
    id        int PRIMARY KEY,
    person_id int REFERENCES person (id) ON DELETE CASCADE,
    word      text NOT NULL
);
CREATE INDEX label_person ON label (person_id);
CREATE TABLE log (person_id int, what text);
CREATE VIEW names AS SELECT id, name, town FROM person;
CREATE VIEW loud_names AS SELECT id, upper(name) AS name FROM names;
CREATE VIEW labels AS SELECT l.id, l.word, n.name FROM label l JOIN loud_names n ON n.id = l.person_id;
CREATE FUNCTION log_name() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN INSERT INTO log VALUES (NEW.id, ''renamed''); RETURN NULL; END';
CREATE TRIGGER on_name AFTER UPDATE OF name ON person FOR EACH ROW EXECUTE FUNCTION log_name();
CREATE POLICY named ON person USING (name <> '');
CREATE INDEX person_loud ON person (upper(name), town) WHERE name <> '';
CREATE STATISTICS name_and_town ON name, town FROM person;
GRANT SELECT (id, name) ON person TO PUBLIC;
INSERT INTO person SELECT n, 'person ' || n, 'town ' || n % 7 FROM generate_series(1, 200) AS n;
INSERT INTO label SELECT n, n, 'word ' || n FROM generate_series(1, 200) AS n;
