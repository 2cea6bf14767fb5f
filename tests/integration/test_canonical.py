"""The server says what an expression means, and refuses what is not about one row."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.rows import TupleRow

from tasks.database.canonical import Canonical, canonicalise
from tasks.database.connection import Target, connect
from tasks.planning import expression_tree
from tasks.planning.errors import SpecError
from tasks.planning.expressions import substitute
from tasks.planning.names import TableName
from tests.unit.test_expressions import PARENTHESES

pytestmark = pytest.mark.every_version

BEFORE_14 = {"(at AT TIME ZONE 'UTC'::text)": "timezone('UTC'::text, at)"}
"""What PostgreSQL 13 prints as the function that it is."""

TABLE = TableName("public", "intake")
SCHEMA = """
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE DOMAIN short AS varchar(3);
CREATE FUNCTION rolled(integer) RETURNS integer VOLATILE LANGUAGE sql AS 'SELECT 4';
CREATE FUNCTION doubled(integer) RETURNS integer IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
CREATE FUNCTION length(integer) RETURNS integer IMMUTABLE LANGUAGE sql AS 'SELECT 1 / $1';
CREATE TABLE intake (
    id bigint PRIMARY KEY, volume integer NOT NULL, unit text, name varchar(10), at timestamp, at_zone timestamptz,
    price numeric(8,2), tags integer[], data jsonb, flag boolean, big bigint, "Größe" integer);
CREATE TABLE other (id bigint);
"""


@pytest.fixture
def clone(database: Target) -> Iterator[psycopg.Connection[TupleRow]]:
    settings = (("search_path", "public"), ("timezone", "UTC"))
    with connect(database, role="test", settings=settings) as connection:
        connection.execute(SCHEMA.encode())
        yield connection


def understood(clone: psycopg.Connection[TupleRow], expression: str, type_: str) -> Canonical:
    return canonicalise(clone, TABLE, expression, type_, key="mapping.intake.x.up")


@pytest.mark.parametrize(
    ("expression", "type_", "text", "inputs"),
    [
        ("volume", "bigint", "(volume)::bigint", ("volume",)),
        ("volume::numeric * 29.5735", "numeric(8,2)", "((volume)::numeric * 29.5735))::numeric(8,2)", ("volume",)),
        ("greatest(1, round(volume))::int", "integer", "GREATEST((1)::double precision", ("volume",)),
        ("at AT TIME ZONE 'UTC'", "timestamp with time zone", "(at AT TIME ZONE 'UTC'::text)", ("at",)),
        ("intake.volume -- a comment", "integer", "volume", ("volume",)),
        ("doubled(volume) + 1", "integer", "(public.doubled(volume) + 1)", ("volume",)),
        ("unit::mood", "mood", "(unit)::public.mood", ("unit",)),
        ('"Größe" + volume', "integer", '("Größe" + volume)', ("volume", "Größe")),
        ("'ML'", "text", "'ML'::text", ()),
        ("data->>'a%b'", "text", "(data ->> 'a%b'::text)", ("data",)),
    ],
)
def test_the_server_qualifies_and_types(
    clone: psycopg.Connection[TupleRow], expression: str, type_: str, text: str, inputs: tuple[str, ...]
) -> None:
    found = understood(clone, expression, type_)
    assert text in found.text or BEFORE_14.get(text, text) in found.text
    assert found.input_columns == inputs


def test_a_length_never_cuts_silently(clone: psycopg.Connection[TupleRow]) -> None:
    for type_, cast in (
        ("character varying(5)", "character varying"),
        ("character(5)", "bpchar"),
        ("character varying(5)[]", "character varying[]"),
        ("short", "character varying"),
    ):
        found = understood(clone, "ARRAY[unit]" if type_.endswith("[]") else "unit", type_)
        assert found.cast == cast
        assert "(5)" not in found.text
        assert found.may_raise
    same = understood(clone, "name", "character varying(10)")
    assert (same.text, same.cast, same.may_raise) == ("name", "character varying(10)", False)


@pytest.mark.parametrize(
    ("expression", "type_"),
    [
        ("volume", "bigint"),
        ("unit", "text"),
        ("name", "text"),
        ("coalesce(volume, 0)", "bigint"),
        ("'ML'", "text"),
        ("NULL", "numeric"),
        ("at AT TIME ZONE 'UTC'", "timestamp with time zone"),
        ("at_zone AT TIME ZONE 'UTC'", "timestamp without time zone"),
        ("flag AND NOT (volume > 3 OR unit IS NULL)", "boolean"),
        ("CASE unit WHEN 'OZ' THEN 1 ELSE 0 END", "integer"),
        ("volume IN (1, 2, 3)", "boolean"),
        ("greatest(volume, big)", "bigint"),
        ("volume::text", "text"),
        ("lower(unit)", "text"),
    ],
)
def test_what_cannot_raise(clone: psycopg.Connection[TupleRow], expression: str, type_: str) -> None:
    assert not understood(clone, expression, type_).may_raise


@pytest.mark.parametrize(
    ("expression", "type_"),
    [
        ("volume + 1", "integer"),
        ("volume", "smallint"),
        ("CASE unit WHEN 'OZ' THEN 1 ELSE 0 END", "smallint"),
        ("price * 2", "numeric(8,2)"),
        ("unit", "integer"),
        ("at AT TIME ZONE 'Europe/Berlin'", "timestamp with time zone"),
        ("at AT TIME ZONE unit", "timestamp with time zone"),
        ("unit || 'x'", "text"),
        ("doubled(volume)", "integer"),
        ("length(volume)", "integer"),  # a function of the user's, called like a harmless one
        ("unit", "short"),
        ("tags[1]", "integer"),
        ("data->>'a'", "text"),
    ],
)
def test_what_may_raise(clone: psycopg.Connection[TupleRow], expression: str, type_: str) -> None:
    assert understood(clone, expression, type_).may_raise


@pytest.mark.parametrize(
    ("expression", "volatility"),
    [("volume + 1", "immutable"), ("at::timestamptz", "stable"), ("at::text", "stable"), ("data", "immutable")],
)
def test_volatility(clone: psycopg.Connection[TupleRow], expression: str, volatility: str) -> None:
    type_ = {"volume + 1": "integer", "data": "jsonb", "at::text": "text"}.get(expression, "timestamp with time zone")
    assert understood(clone, expression, type_).volatility == volatility


@pytest.mark.parametrize(
    ("expression", "type_", "says"),
    [
        ("volum", "integer", 'column "volum" does not exist (SQLSTATE 42703)'),
        ("volum", "integer", "Columns that it can read: volume."),
        ("volume + unit", "integer", "SQLSTATE 42883"),
        ("data", "timestamp without time zone", "SQLSTATE 42846"),
        ("(SELECT max(id) FROM other)", "bigint", "only from its own row"),
        ("sum(volume)", "bigint", "only from its own row"),
        ("row_number() OVER ()", "bigint", "only from its own row"),
        ("generate_series(1, 2)", "integer", "only from its own row"),
        ("ctid", "tid", "only from its own row"),
        ("tableoid", "oid", "system column"),
        ("intake", "text", "the whole row"),
        ("random()", "double precision", "random() is volatile"),
        ("rolled(volume)", "integer", "public.rolled(integer) is volatile"),
        ("now()", "timestamp with time zone", "when and by whom"),
        ("current_date - 1", "date", "when and by whom"),
        ("current_user", "text", "when and by whom"),
        ("volume, 2", "integer", "Not one SQL expression"),
        ("volume) OR (true", "boolean", "Not an SQL expression"),
        ("volume; DROP TABLE other", "integer", "Not one SQL expression"),
        ("", "integer", "Not"),
        ("'x'::int", "integer", "SQLSTATE 22P02"),
        ("volume", "no_such_type", "SQLSTATE 42704"),
    ],
)
def test_refusals_name_the_key_and_the_expression(
    clone: psycopg.Connection[TupleRow], expression: str, type_: str, says: str
) -> None:
    with pytest.raises(SpecError) as refused:
        understood(clone, expression, type_)
    assert says in str(refused.value)
    assert "mapping.intake.x.up" in str(refused.value)
    assert expression in str(refused.value)


def test_nothing_remains_and_nothing_is_run(clone: psycopg.Connection[TupleRow]) -> None:
    def state() -> object:
        return clone.execute(
            "SELECT (SELECT count(*) FROM pg_constraint), (SELECT count(*) FROM pg_class),"
            " current_setting('search_path'), current_setting('lock_timeout')"
        ).fetchone()

    before = state()
    understood(clone, "volume + 1", "bigint")
    with pytest.raises(SpecError):
        understood(clone, "nothing", "bigint")
    assert state() == before


@pytest.mark.parametrize(
    ("expression", "type_"),
    [
        ("CASE unit WHEN 'OZ' THEN volume * 29.5735 ELSE volume END", "numeric(8,2)"),
        ("at AT TIME ZONE 'UTC'", "timestamp with time zone"),
        ("flag IS NOT TRUE", "boolean"),
        ("flag IS UNKNOWN OR NOT flag", "boolean"),
        ("unit !~ '^a%' OR unit ~~ 'x%' OR unit SIMILAR TO '(a|b)%'", "boolean"),
        ("date_part('hour', at)::int + extract(year FROM at_zone)", "integer"),
        ("@ volume ^ 2", "double precision"),
        ("position('a' IN unit) + overlay(unit PLACING 'x' FROM 1 FOR 2)::int", "integer"),
        ("trim(both FROM unit) || E'\\\\n' || 'it''s'", "text"),
        ("at + interval '1 mon 2 days'", "timestamp without time zone"),
        ("tags[1] = ANY (tags) AND tags && ARRAY[volume]", "boolean"),
        ("data #>> '{a,b}' IS DISTINCT FROM data->>'x'", "boolean"),
        ("doubled(volume) OPERATOR(pg_catalog.+) 1", "integer"),
        ("(volume, big) = (1, 2)", "boolean"),
        ("volume::bit(8)::bit varying(5)", "bit varying"),
    ],
)
def test_a_rewritten_expression_is_the_same_to_the_server(
    clone: psycopg.Connection[TupleRow], expression: str, type_: str
) -> None:
    """The proof of `substitute` is the parser's; this one is the server's: rewritten, it is printed as before."""
    found = understood(clone, expression, type_)
    rewritten = substitute(found.text, {name: f'intake."{name}"' for name in found.input_columns})
    assert "intake" in rewritten
    assert understood(clone, rewritten, type_).text == found.text


def test_parentheses_survive_the_server(clone: psycopg.Connection[TupleRow]) -> None:
    clone.execute("ALTER TABLE intake ADD a boolean, ADD b boolean, ADD c boolean")
    for expression in ("((NOT a) IS NULL)", "((a AND b) IS NULL)", "((a = b) IS NOT TRUE)", "(a AND (b OR c))"):
        assert expression in PARENTHESES or "OR" in expression
        found = understood(clone, expression, "boolean")
        assert expression_tree.form(found.text, {}) == expression_tree.form(expression, {})
        there = substitute(found.text, {"a": 'intake."a"', "b": 'intake."b"', "c": 'intake."c"'})
        assert understood(clone, there, "boolean").text == found.text
