"""`up` is tried on the rows that are there, `down` on values that could come."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import psycopg
import pytest
from psycopg.rows import TupleRow

from tasks.database import probe
from tasks.database.canonical import Canonical, canonicalise
from tasks.database.catalog import snapshot
from tasks.database.connection import Target, connect
from tasks.database.probe import Probed, probe_up, sample_up
from tasks.database.probe_down import DownProbe, NewColumn, OldColumn, Row, probe_down
from tasks.planning import candidates
from tasks.planning.catalog import Table
from tasks.planning.errors import SpecError
from tasks.planning.names import TableName

TABLE = TableName("public", "intake")
SECRET = "canary-5e0d"


@pytest.fixture
def session(database: Target) -> Iterator[psycopg.Connection[TupleRow]]:
    with connect(database, role="test", settings=(("search_path", "public"), ("timezone", "UTC"))) as connection:
        connection.execute(
            b"CREATE TABLE intake (id bigint, part text, volume integer, text text, ml numeric(8,2),"
            b" at timestamptz, PRIMARY KEY (part, id));"
            b"INSERT INTO intake SELECT n, 'p' || n % 3, n % 100, 'x' FROM generate_series(1, 3000) AS n"
        )
        yield connection


def table(session: psycopg.Connection[TupleRow]) -> Table:
    found = snapshot(session).table(TABLE)
    assert found is not None
    return found


def up(session: psycopg.Connection[TupleRow], expression: str, type_: str, *, personal_key: bool = False) -> Probed:
    expressions = {"mapping.intake.ml.up": canonicalise(session, TABLE, expression, type_)}
    return probe_up(session, table(session), expressions, personal_key=personal_key)


def test_all_rows_of_a_small_table_are_computed(session: psycopg.Connection[TupleRow]) -> None:
    assert up(session, "volume * 29.5735", "numeric(8,2)") == Probed(rows=3000, sampled=False)
    session.execute("ANALYZE intake")
    assert up(session, "volume * 29.5735", "numeric(8,2)") == Probed(rows=3000, sampled=False)


def test_failing_rows_are_named_by_key_and_never_shown(session: psycopg.Connection[TupleRow]) -> None:
    session.execute("UPDATE intake SET text = CASE WHEN id IN (7, 1500, 2999, 3000) THEN %s ELSE '12' END", (SECRET,))
    with pytest.raises(SpecError) as refused:
        up(session, "text", "integer")
    message = str(refused.value)
    assert "mapping.intake.ml.up" in message
    assert "SQLSTATE 22P02" in message
    # In the order of the key (part, id): p0 holds 1500 and 3000, p1 holds 7, p2 holds 2999.
    assert '["p0", 1500], ["p0", 3000], ["p1", 7] and perhaps more' in message
    assert SECRET not in message
    assert refused.value.__cause__ is None


def test_a_personal_key_is_hashed(session: psycopg.Connection[TupleRow]) -> None:
    session.execute("UPDATE intake SET volume = CASE id WHEN 7 THEN 0 ELSE 1 END")
    with pytest.raises(SpecError) as refused:
        up(session, "100 / volume", "integer", personal_key=True)
    assert hashlib.md5(b'["p1", 7]', usedforsecurity=False).hexdigest() in str(refused.value)
    assert "p1" not in str(refused.value)
    assert "SQLSTATE 22012" in str(refused.value)


def test_a_value_that_would_be_cut_is_a_failure(session: psycopg.Connection[TupleRow]) -> None:
    session.execute("UPDATE intake SET text = 'abcdef' WHERE id = 5")
    assert up(session, "text", "character varying(6)").rows == 3000
    with pytest.raises(SpecError, match=r'\["p2", 5\].*SQLSTATE 22001'):
        up(session, "text", "character varying(5)")


def test_a_table_without_a_key_fails_without_keys(session: psycopg.Connection[TupleRow]) -> None:
    session.execute("ALTER TABLE intake DROP CONSTRAINT intake_pkey")
    with pytest.raises(SpecError, match="for rows of the table"):
        up(session, "text", "integer")


def test_a_large_table_is_sampled(session: psycopg.Connection[TupleRow], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "ALL_ROWS_UP_TO", 1500)
    session.execute("ANALYZE intake")
    probed = up(session, "volume + 1", "bigint")
    assert probed.sampled
    assert 0 < probed.rows < 3000
    with pytest.raises(SpecError, match="SQLSTATE 22P02"):
        up(session, "text", "integer")


def test_probing_writes_nothing_and_leaves_no_settings(session: psycopg.Connection[TupleRow]) -> None:
    session.execute(
        "CREATE SEQUENCE numbers; CREATE FUNCTION bump(integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql"
        " AS 'BEGIN RETURN nextval(''public.numbers''); END'"
    )
    with pytest.raises(SpecError, match="SQLSTATE 25006"):  # read_only_sql_transaction
        up(session, "bump(volume)", "integer")
    row = session.execute("SELECT current_setting('search_path'), current_setting('statement_timeout')").fetchone()
    assert row == ("public", "0")


def test_a_probe_that_takes_too_long_says_so(session: psycopg.Connection[TupleRow]) -> None:
    session.execute(
        "CREATE FUNCTION slow(integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql"
        " AS 'BEGIN PERFORM pg_sleep(0.2); RETURN 1; END'"
    )
    expression = {"mapping.intake.ml.up": canonicalise(session, TABLE, "slow(volume)", "integer")}
    with pytest.raises(SpecError, match="SQLSTATE 57014"):
        probe_up(session, table(session), expression, personal_key=False, statement_timeout_ms=300)


# ------------------------------------------------------------------------------------------------ down


def down(
    session: psycopg.Connection[TupleRow],
    expression: str,
    *,
    new: Mapping[str, NewColumn] | None = None,
    type_: str = "integer",
    new_checks: Sequence[str] = (),
    old_checks: Sequence[str] = (),
    real: Sequence[Row] = (),
) -> DownProbe:
    columns = new or {"ml": NewColumn("numeric(8,2)", not_null=True)}
    canonical: Canonical = canonicalise(session, TABLE, expression, type_)
    old = {"volume": OldColumn("mapping.intake.ml.down.volume", canonical, not_null=True)}
    return probe_down(session, columns, old, new_checks=new_checks, old_checks=old_checks, real=real)


def test_the_example_of_the_design(session: psycopg.Connection[TupleRow]) -> None:
    """0.30 ml becomes 0, which the old shape refuses; a `down` that cannot give 0 is accepted."""
    found = down(session, "round(ml)::int", new_checks=["(ml > (0)::numeric)"], old_checks=["(volume > 0)"])
    assert not found.down_total
    example = found.examples[0]
    assert (example.new, example.old, example.breaks) == ({"ml": "0.30"}, {"volume": "0"}, "(volume > 0)")
    assert str(example) == "ml = 0.30 → volume = 0 breaks (volume > 0)"
    mended = down(
        session, "greatest(1, round(ml))::int", new_checks=["(ml > (0)::numeric)"], old_checks=["(volume > 0)"]
    )
    assert mended.down_total
    assert mended.admitted > 3


def test_only_what_the_new_shape_admits_is_tried(session: psycopg.Connection[TupleRow]) -> None:
    without = down(session, "ml::int", old_checks=["(volume > 0)"])
    within = down(session, "ml::int", new_checks=["(ml >= (1)::numeric)"], old_checks=["(volume > 0)"])
    assert not without.down_total
    assert within.down_total
    assert 0 < within.admitted < without.admitted


def test_null_is_tried_where_the_new_column_takes_it(session: psycopg.Connection[TupleRow]) -> None:
    nullable = {"ml": NewColumn("numeric(8,2)", not_null=False)}
    found = down(session, "ml::int", new=nullable)
    assert [str(example) for example in found.examples] == ["ml = NULL → volume = NULL breaks NOT NULL of volume"]
    assert down(session, "coalesce(ml, 0)::int", new=nullable).down_total


def test_an_error_of_down_is_an_example(session: psycopg.Connection[TupleRow]) -> None:
    found = down(session, "(100 / ml)::int")
    assert ("0", "22012") in {(e.new["ml"], e.breaks[-6:-1]) for e in found.examples if e.new}


def test_a_value_beyond_the_old_type_is_told_apart(session: psycopg.Connection[TupleRow]) -> None:
    session.execute("ALTER TABLE intake ADD big bigint")
    found = down(session, "big", new={"big": NewColumn("bigint", not_null=True)})
    assert [example.too_large for example in found.examples] == [True]
    assert "22003" in found.examples[0].breaks
    cut = down(session, "text", new={"text": NewColumn("text", not_null=True)}, type_="character varying(3)")
    assert [(e.too_large, e.breaks) for e in cut.examples] == [
        (True, "the length of volume character varying(3)"),
    ]


def test_rows_that_are_there_are_tried_and_never_shown(session: psycopg.Connection[TupleRow]) -> None:
    session.execute("UPDATE intake SET text = %s WHERE id = 9", (SECRET,))
    rows = sample_up(session, TABLE, {"text": "(text || '!')", "id": '"id"'}, rows=3000)
    assert len(rows) == 3000
    assert {row["text"] for row in rows} == {"x!", f"{SECRET}!"}
    found = down(
        session,
        "text",
        type_="text",
        new={"text": NewColumn("text", not_null=True), "id": NewColumn("bigint", not_null=True)},
        old_checks=["(volume !~ 'canary'::text)"],
        real=rows,
    )
    assert [(example.new, example.old) for example in found.examples] == [(None, None)]
    assert SECRET not in str(found)


def test_a_check_over_unknown_columns_is_reported_not_guessed(session: psycopg.Connection[TupleRow]) -> None:
    found = down(session, "ml::int", old_checks=["(volume > id)", "(volume > '-100000000'::integer)"])
    assert found.unjudged == ("(volume > id)",)
    assert found.down_total


def test_a_constant_is_tried_without_any_new_column(session: psycopg.Connection[TupleRow]) -> None:
    canonical = canonicalise(session, TABLE, "'ML'", "text")
    old = {"text": OldColumn("mapping.intake.text.down", canonical, not_null=True)}
    assert probe_down(session, {}, old).down_total
    assert not probe_down(session, {}, old, old_checks=["(text = 'OZ'::text)"]).down_total


@pytest.mark.parametrize(
    "type_",
    [
        "numeric(8,2)", "numeric", "numeric(3,0)", "numeric(2,2)", "smallint", "integer", "bigint", "text",
        "character varying(5)", "character(1)", "boolean", "real", "double precision", "date", "interval", "uuid",
        "timestamp without time zone", "timestamp(3) without time zone", "timestamp with time zone", "bytea", "json",
        "time without time zone", "time with time zone", "jsonb", "inet", "integer[]", "text[]", "numeric(8,2)[]",
    ],
)  # fmt: skip
def test_candidates_are_values_of_their_type(session: psycopg.Connection[TupleRow], type_: str) -> None:
    values = candidates.values(type_)
    assert len(values) >= 2
    for value in values:
        # Back as text: Python has no infinity among its moments.
        statement = b"SELECT ((%s::text)::" + type_.encode() + b")::text"
        assert session.execute(statement, (value,)).fetchone() is not None
