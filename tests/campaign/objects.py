"""Operations on tables, views, functions, triggers and types."""

from __future__ import annotations

from tests.campaign.change import Change
from tests.campaign.model import quoted


def rename_table(change: Change) -> bool:
    """By itself: both names are used until contract."""
    if change.kinds:
        return False
    name = "renamed table"
    change.both(change.alter(f"RENAME TO {quoted(name)}"))
    change.new_name = name
    change.pool.clear()
    return True


def create_table(change: Change) -> bool:
    change.both(
        "CREATE TABLE \"coming\" (id int PRIMARY KEY, said text DEFAULT 'nothing');",
        'CREATE INDEX "coming said" ON "coming" (said);',
        "COMMENT ON TABLE \"coming\" IS 'what is new';",
        'GRANT SELECT ON "coming" TO PUBLIC;',
    )
    change.new |= {
        "say": 'INSERT INTO "coming" VALUES (%(fresh)s, %(t)s)',
        "say again": 'UPDATE "coming" SET said = %(w)s WHERE id = %(n)s',
    }
    return True


def drop_table(change: Change) -> bool:
    """The old application writes it to the end."""
    change.setup += [
        'CREATE TABLE "leaving" (id int PRIMARY KEY, said text);',
        f"INSERT INTO \"leaving\" SELECT g, 'word ' || g FROM generate_series(1, {change.table.rows}) AS g;",
    ]
    change.old |= {
        "say": 'INSERT INTO "leaving" VALUES (%(fresh)s, %(t)s)',
        "say again": 'UPDATE "leaving" SET said = %(w)s WHERE id = %(n)s',
    }
    change.both('DROP TABLE "leaving";')
    return True


def create_view_and_functions(change: Change) -> bool:
    column = change.take()
    if column is None:
        return False
    table = change.table.quoted
    change.both(
        f'CREATE VIEW "seen" AS SELECT {quoted(column.name)} AS shown FROM {table};',
        'GRANT SELECT ON "seen" TO PUBLIC;',
        f'CREATE FUNCTION "counted"() RETURNS bigint LANGUAGE sql STABLE AS $f$SELECT count(*) FROM {table}$f$;',
        'CREATE FUNCTION "heard"() RETURNS trigger LANGUAGE plpgsql AS $f$BEGIN RETURN NULL; END$f$;',
        f'CREATE TRIGGER "hears" AFTER INSERT OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION "heard"();',
    )
    change.new["look and count"] = 'SELECT count(shown), "counted"() FROM "seen"'
    return True


def drop_view_and_functions(change: Change) -> bool:
    """The old application reads them to the end."""
    column = change.take()
    if column is None:
        return False
    table = change.table.quoted
    change.setup += [
        f'CREATE VIEW "seen before" AS SELECT {quoted(column.name)} AS shown FROM {table};',
        f'CREATE FUNCTION "counted before"() RETURNS bigint LANGUAGE sql AS $f$SELECT count(*) FROM {table}$f$;',
        'CREATE FUNCTION "heard before"() RETURNS trigger LANGUAGE plpgsql AS $f$BEGIN RETURN NULL; END$f$;',
        f'CREATE TRIGGER "heard it" AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION "heard before"();',
    ]
    change.both(
        'DROP VIEW "seen before";',
        'DROP FUNCTION "counted before"();',
        f'DROP TRIGGER "heard it" ON {table};',
        'DROP FUNCTION "heard before"();',
    )
    change.old["look and count"] = 'SELECT count(shown), "counted before"() FROM "seen before"'
    return True


def add_enum_value(change: Change) -> bool:
    change.setup += [
        "CREATE TYPE \"mood\" AS ENUM ('sad', 'glad');",
        change.alter('ADD COLUMN "felt" "mood" NOT NULL DEFAULT \'sad\''),
    ]
    change.both("ALTER TYPE \"mood\" ADD VALUE 'so so' BEFORE 'glad';")
    feel = "UPDATE {table} SET \"felt\" = (CASE WHEN %(b)s THEN 'glad' ELSE '{feeling}' END)::\"mood\" WHERE {one}"
    change.old["feel"] = change.sent(feel.replace("{feeling}", "sad"))
    change.new["feel"] = change.sent(feel.replace("{feeling}", "so so"))
    return True
