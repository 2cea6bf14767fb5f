"""The simulated application: what it finds when all is well, and every kind of damage that it must notice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

import psycopg
import pytest

from tasks.application.application import Application
from tasks.application.client import Pace
from tasks.application.drink_water import fill
from tasks.application.volumes import NewVolume, OldVolume, as_new, as_old, written
from tasks.database.connection import Target

# The change of the demo in one go, with triggers that keep both shapes, written by hand: the application is tested
# here without Lockstep, so that neither can cover a mistake of the other.
BOTH_SHAPES = """
ALTER TABLE users ADD COLUMN notification_enabled boolean NOT NULL DEFAULT true;
ALTER TABLE water_intake ADD COLUMN recorded_at timestamptz, ADD COLUMN volume_ml numeric(8,2) CHECK (volume_ml > 0);
UPDATE water_intake SET recorded_at = date_time_utc AT TIME ZONE 'UTC',
    volume_ml = CASE volume_unit WHEN 'OZ' THEN volume * 29.5735 ELSE volume END;
CREATE UNIQUE INDEX ON water_intake (user_id, recorded_at);
CREATE FUNCTION keep_both() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' AND NEW.recorded_at IS NULL
       OR TG_OP = 'UPDATE' AND NEW.date_time_utc IS DISTINCT FROM OLD.date_time_utc THEN
        NEW.recorded_at := NEW.date_time_utc AT TIME ZONE 'UTC';
    ELSIF TG_OP = 'INSERT' OR NEW.recorded_at IS DISTINCT FROM OLD.recorded_at THEN
        NEW.date_time_utc := NEW.recorded_at AT TIME ZONE 'UTC';
    END IF;
    IF TG_OP = 'INSERT' AND NEW.volume_ml IS NULL
       OR TG_OP = 'UPDATE' AND (NEW.volume, NEW.volume_unit) IS DISTINCT FROM (OLD.volume, OLD.volume_unit) THEN
        NEW.volume_ml := CASE NEW.volume_unit WHEN 'OZ' THEN NEW.volume * 29.5735 ELSE NEW.volume END;
    ELSIF TG_OP = 'INSERT' OR NEW.volume_ml IS DISTINCT FROM OLD.volume_ml THEN
        NEW.volume := greatest(1, round(NEW.volume_ml));
        NEW.volume_unit := 'ML';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER keep_both BEFORE INSERT OR UPDATE ON water_intake FOR EACH ROW EXECUTE FUNCTION keep_both();
"""


@pytest.fixture
def filled(database: Target) -> Target:
    fill(database.conninfo, intakes=2_000, users=100)
    return database


@contextmanager
def direct(target: Target) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(target.conninfo, autocommit=True) as connection:
        yield connection


def busy(target: Target, *, seconds: float, old: int, new: int) -> Application:
    """Let clients work for a while; return the application with its clients gone and its record kept."""
    with Application(target.conninfo, pace=Pace(pause=0.0)) as application:
        application.set_shapes(old=old, new=new)
        time.sleep(seconds)
        assert application.dead == 0
    return application


def test_a_sound_database_is_found_equal(filled: Target) -> None:
    application = busy(filled, seconds=2.0, old=4, new=0)
    report, comparison = application.report(), application.compare()
    assert report.errors == ()
    assert report.discrepancies == ()
    assert report.acknowledged > 100
    assert report.refused > 0
    assert 0 < report.latency.median <= report.latency.p99 <= report.latency.worst
    assert comparison.shapes == ("old",)
    assert comparison.intakes > 1_000
    assert comparison.touched > 100
    assert comparison.found == comparison.touched
    assert comparison.equal


def test_both_shapes_write_the_same_rows(filled: Target) -> None:
    with direct(filled) as connection:
        connection.execute(BOTH_SHAPES.encode())
    with Application(filled.conninfo, pace=Pace(pause=0.0)) as application:
        application.set_shapes(old=2, new=2)
        time.sleep(2.5)
        both = application.compare()
        application.set_shapes(old=0, new=2)
        with direct(filled) as connection:
            # In one transaction: an insert in between would find the trigger gone and the old columns still there.
            connection.execute(
                "DROP TRIGGER keep_both ON water_intake;"
                " ALTER TABLE water_intake DROP volume, DROP volume_unit, DROP date_time_utc"
            )
        time.sleep(0.5)
    report, comparison = application.report(), application.compare()
    assert report.errors == ()
    assert report.discrepancies == ()
    assert both.shapes == ("old", "new")
    assert both.equal
    assert comparison.shapes == ("new",)
    assert comparison.equal
    assert comparison.touched > both.touched


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("DELETE FROM water_intake WHERE id = (SELECT min(id) FROM water_intake WHERE id > 0)", "intake missing"),
        ("UPDATE water_intake SET volume = volume + 1 WHERE id = (SELECT min(id) FROM water_intake WHERE id > 0)",
         "volume differs"),
        ("UPDATE water_intake SET id = 999999 WHERE id = (SELECT min(id) FROM water_intake WHERE id > 0)",
         "id differs"),
        ("INSERT INTO water_intake (user_id, date_time_utc, volume, volume_unit)"
         " SELECT max(id), '1999-01-01', 1, 'ML' FROM users", "intake should be gone"),
        ("UPDATE users SET email = 'x' WHERE id = (SELECT max(id) FROM users)", "email differs"),
        ("INSERT INTO users (id, email, password_hash) VALUES (77777, 'y', '')", "user should be gone"),
        ("DELETE FROM users WHERE id = (SELECT max(id) FROM users WHERE id IN (SELECT user_id FROM water_intake))",
         "user missing"),
    ],
)  # fmt: skip
def test_damage_is_found(filled: Target, damage: str, what: str) -> None:
    application = busy(filled, seconds=0.3, old=2, new=0)
    with direct(filled) as connection:
        assert connection.execute(damage.encode()).rowcount == 1
    comparison = application.compare()
    assert not comparison.equal
    assert what in {found.what for found in comparison.discrepancies}


def test_a_lost_acknowledged_write_is_counted(filled: Target) -> None:
    application = busy(filled, seconds=0.5, old=2, new=0)
    sound = application.compare()
    with direct(filled) as connection:
        # Only clients give such numbers: this row was written and acknowledged.
        lost = connection.execute(
            "DELETE FROM water_intake WHERE id = (SELECT max(id) FROM water_intake WHERE abs(id) >= 1000000000)"
        )
        assert lost.rowcount == 1
    comparison = application.compare()
    assert comparison.found == sound.found - 1
    assert comparison.touched == sound.touched


def test_a_failing_statement_is_an_error_without_values(filled: Target) -> None:
    with direct(filled) as connection:
        connection.execute("ALTER TABLE water_intake ADD CONSTRAINT fault CHECK (volume_unit <> 'OZ') NOT VALID")
    application = busy(filled, seconds=1.0, old=2, new=0)
    errors = application.report().errors
    assert {error.sqlstate for error in errors} == {"23514"}
    assert all("OZ" not in error.message and "fault" in error.message for error in errors)
    assert application.compare().equal, "a refused statement was not acknowledged, so nothing is missing"


def test_an_accepted_duplicate_is_an_error(filled: Target) -> None:
    with direct(filled) as connection:
        connection.execute("ALTER TABLE water_intake DROP CONSTRAINT water_intake_volume_check")
    application = busy(filled, seconds=1.0, old=2, new=0)
    assert {error.statement for error in application.report().errors} == {"invalid volume"}


def test_lost_connections_are_resolved_by_reading(filled: Target) -> None:
    with Application(filled.conninfo, pace=Pace(pause=0.0, reconnect=10.0)) as application, direct(filled) as admin:
        application.set_shapes(old=3, new=0)
        for _ in range(40):
            time.sleep(0.05)
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'drink-water:old'"
            )
        assert application.dead == 0
    report = application.report()
    assert report.unknown > 0
    assert report.errors == ()
    assert report.discrepancies == ()
    assert application.compare().equal


def test_a_lost_connection_is_an_error_where_none_is_expected(filled: Target) -> None:
    with Application(filled.conninfo) as application, direct(filled) as admin:
        application.set_shapes(old=1, new=0)
        time.sleep(0.2)
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'drink-water:old'"
        )
        time.sleep(0.5)
    assert application.report().errors != ()


def test_the_stall_of_a_lock_is_measured(filled: Target) -> None:
    with Application(filled.conninfo, pace=Pace(pause=0.0)) as application, direct(filled) as blocker:
        application.set_shapes(old=2, new=0)
        time.sleep(0.2)
        with blocker.transaction():
            blocker.execute("LOCK TABLE water_intake IN ACCESS EXCLUSIVE MODE")
            while blocker.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() == (0,):
                time.sleep(0.01)
            time.sleep(0.6)
        time.sleep(0.2)
    assert application.report().latency.worst >= 500


def test_nobody_writes_while_it_is_quiet(filled: Target) -> None:
    with Application(filled.conninfo, pace=Pace(pause=0.0)) as application:
        application.set_shapes(old=3, new=0)
        time.sleep(0.2)
        with application.quiet():
            before = application.report().statements
            time.sleep(0.3)
            assert application.report().statements == before
        time.sleep(0.3)
        assert application.report().statements > before


@pytest.mark.parametrize(
    ("volume", "old", "new"),
    [
        (OldVolume(8, "OZ"), OldVolume(8, "OZ"), Decimal("236.59")),
        (OldVolume(250, "ML"), OldVolume(250, "ML"), Decimal("250.00")),
        (NewVolume(Decimal("250.55")), OldVolume(251, "ML"), Decimal("250.55")),
        (NewVolume(Decimal("0.30")), OldVolume(1, "ML"), Decimal("0.30")),
        (NewVolume(Decimal("2.50")), OldVolume(3, "ML"), Decimal("2.50")),
    ],
)
def test_the_mapping_written_down_by_hand(volume: OldVolume | NewVolume, old: OldVolume, new: Decimal) -> None:
    assert as_old(volume) == old
    assert as_new(volume) == NewVolume(new)


def test_setting_the_shown_value_again_changes_nothing() -> None:
    exact = NewVolume(Decimal("250.55"))
    assert written(exact, OldVolume(251, "ML")) is exact
    assert written(exact, OldVolume(252, "ML")) == OldVolume(252, "ML")
    assert written(OldVolume(8, "OZ"), NewVolume(Decimal("236.59"))) == OldVolume(8, "OZ")
