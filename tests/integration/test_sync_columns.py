"""The sync and odd columns: generated, derived, only dropped, with a default, and values that are equal and differ."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import AnyServer, _new_database
from tests.integration.staging import (
    PHASES,
    Stage,
    carry_out,
    planned,
    recorded,
    row,
    writers,
    written,
)

pytestmark = pytest.mark.every_version


READING = """
CREATE TABLE reading (
    id      timestamptz PRIMARY KEY,
    factor  int NOT NULL DEFAULT 1,
    shift   int GENERATED ALWAYS AS (factor * 100) STORED,
    raw     smallint NOT NULL,
    span    interval,
    amount  numeric,
    source  text NOT NULL DEFAULT 'old sensor',
    place   text,
    rank    int NOT NULL DEFAULT 3,
    CONSTRAINT raw_within CHECK (shift IS NULL OR raw < 40000)
);
CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.factor := abs(NEW.factor); RETURN NEW; END';
CREATE TRIGGER zzzz_tidy BEFORE INSERT OR UPDATE ON reading FOR EACH ROW EXECUTE FUNCTION tidy();
INSERT INTO reading (id, raw, span, amount) VALUES ('2024-01-01+00', 1, '1 mon', 1.0);
"""
READING_CHANGE = """
ALTER TABLE reading ADD COLUMN exact numeric(10,2) NOT NULL, DROP COLUMN raw;
ALTER TABLE reading RENAME COLUMN span TO period;
ALTER TABLE reading RENAME COLUMN amount TO quantity;
ALTER TABLE reading RENAME COLUMN rank TO priority;
ALTER TABLE reading DROP COLUMN source;
ALTER TABLE reading ADD COLUMN label text;
"""
READING_REST = """
mapping:
  reading.exact: {up: "raw + shift", down: {raw: "(round(exact)::int - coalesce(shift, 0))::smallint"}}
  reading.source: {down: "'new sensor'"}
  reading.label: {up: "upper(place)"}
"""
KEY = "id = '2024-01-01+00'"


@pytest.fixture(scope="module")
def reading_template(server: AnyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Stage]]:
    folder = tmp_path_factory.mktemp("reading")
    with _new_database(server, "template0") as original:
        plan = planned(original, READING, written(folder, "reading-v2", READING_CHANGE, READING_REST))
        yield original.name, carry_out(original, plan, PHASES[:4])


@pytest.fixture
def reading(server: AnyServer, reading_template: tuple[str, Stage]) -> Iterator[Stage]:
    """After the switch: a generated column that `up`, `down` and a CHECK read, a late trigger, odd equalities."""
    with _new_database(server, reading_template[0]) as copy:
        yield Stage(copy, reading_template[1].plan)


def test_generated_columns_are_computed_for_both_ways(reading: Stage) -> None:
    with reading.session() as app:
        app.execute("INSERT INTO reading (id, factor, raw) VALUES ('2024-01-02+00', 2, 5)")
        app.execute("INSERT INTO reading (id, factor, exact) VALUES ('2024-01-03+00', 2, 205.4)")
        found = app.execute("SELECT raw, exact::text FROM reading ORDER BY id").fetchall()
        assert found == [(1, "101.00"), (5, "205.00"), (5, "205.40")]
        assert recorded(app) == []


def test_an_update_of_something_else_leaves_a_group_that_reads_a_generated_column(reading: Stage) -> None:
    with reading.session() as app:
        app.execute(f"UPDATE reading SET exact = 250.55 WHERE {KEY}".encode())
        app.execute(f"UPDATE reading SET place = 'here' WHERE {KEY}".encode())
        assert row(app, f"SELECT exact::text, raw FROM reading WHERE {KEY}") == ("250.55", 151)


def test_a_kept_input_recomputes_what_was_derived_and_no_value_of_the_new_application(reading: Stage) -> None:
    with reading.session() as app:
        app.execute(f"UPDATE reading SET factor = 3, place = 'here' WHERE {KEY}".encode())
        assert row(app, f"SELECT exact::text, raw, label FROM reading WHERE {KEY}") == ("301.00", 1, "HERE")
        app.execute(f"UPDATE reading SET exact = 450.55, label = 'my own' WHERE {KEY}".encode())
        app.execute(f"UPDATE reading SET factor = 2, place = 'there' WHERE {KEY}".encode())
        found = row(app, f"SELECT exact::text, raw, label, lockstep_pending FROM reading WHERE {KEY}")
        assert found == ("450.55", 251, "my own", 0)


def test_a_late_trigger_of_the_user_runs_before_the_sync(reading: Stage) -> None:
    with reading.session() as app:
        app.execute(f"UPDATE reading SET raw = 7, factor = -2 WHERE {KEY}".encode())
        assert row(app, f"SELECT factor, exact::text FROM reading WHERE {KEY}") == (2, "207.00")


def test_values_that_are_equal_and_not_the_same_are_synced(reading: Stage) -> None:
    with reading.session() as app:
        app.execute(f"UPDATE reading SET span = '30 days', amount = 1.00 WHERE {KEY}".encode())
        assert row(app, f"SELECT period::text, quantity::text FROM reading WHERE {KEY}") == ("30 days", "1.00")
        app.execute(f"UPDATE reading SET period = '1 mon', quantity = 1.0 WHERE {KEY}".encode())
        assert row(app, f"SELECT span::text, amount::text FROM reading WHERE {KEY}") == ("1 mon", "1.0")


def test_a_renamed_column_with_a_default_takes_what_either_version_gives(reading: Stage) -> None:
    with reading.session() as app:
        app.execute("INSERT INTO reading (id, exact, priority) VALUES ('2024-01-02+00', 5, 9)")
        app.execute("INSERT INTO reading (id, exact) VALUES ('2024-01-03+00', 5)")
        app.execute("INSERT INTO reading (id, raw, rank) VALUES ('2024-01-04+00', 5, 8)")
        app.execute("INSERT INTO reading (id, raw) VALUES ('2024-01-05+00', 5)")
        found = app.execute("SELECT rank, priority FROM reading WHERE id > '2024-01-01+00' ORDER BY id").fetchall()
        assert found == [(9, 9), (3, 3), (8, 8), (3, 3)]
        assert recorded(app) == []


def test_a_column_that_only_goes_keeps_what_the_old_application_gives(reading: Stage) -> None:
    with reading.session() as app:
        app.execute("INSERT INTO reading (id, raw, source) VALUES ('2024-01-02+00', 5, 'mine')")
        app.execute("INSERT INTO reading (id, exact) VALUES ('2024-01-03+00', 5)")
        assert writers(app) == 1
        found = app.execute("SELECT source FROM reading ORDER BY id").fetchall()
        assert found == [("old sensor",), ("mine",), ("old sensor",)]


def test_a_new_application_that_leaves_dropped_and_derived_columns_out_is_no_old_writer(reading: Stage) -> None:
    with reading.session() as app:
        app.execute("INSERT INTO reading (id, exact) VALUES ('2024-01-03+00', 5)")
        app.execute(f"UPDATE reading SET exact = 6, factor = 2, place = 'x' WHERE {KEY}".encode())
        assert writers(app) == 0


def test_a_key_is_recorded_alike_under_every_time_zone(reading: Stage) -> None:
    with reading.session(("TimeZone", "Asia/Tokyo")) as app:
        app.execute(f"UPDATE reading SET exact = 99999999 WHERE {KEY}".encode())
    with reading.session(("TimeZone", "UTC")) as app:
        app.execute(f"UPDATE reading SET exact = 99999998 WHERE {KEY}".encode())
        assert {entry[1] for entry in recorded(app)} == {'["2024-01-01T00:00:00+00:00"]'}
