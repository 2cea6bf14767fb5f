"""The sync on the drink-water database: volumes of either shape, upserts, values that `down` cannot hold."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tasks.database import oracle
from tasks.planning.spec import load
from tests.conftest import DRINK_WATER, AnyServer, _new_database
from tests.integration.staging import (
    PHASES,
    Stage,
    backfill,
    carry_out,
    recorded,
    row,
)

pytestmark = pytest.mark.every_version


@pytest.fixture(scope="module")
def water_template(server: AnyServer, drink_water_template: str) -> Iterator[tuple[str, Stage]]:
    with _new_database(server, drink_water_template) as copy:
        plan = oracle.plan(load(DRINK_WATER / "intake-v2.yaml"), copy)
        yield copy.name, carry_out(copy, plan, PHASES[:4])


@pytest.fixture
def water(server: AnyServer, water_template: tuple[str, Stage]) -> Iterator[Stage]:
    """Drink-water after the switch."""
    with _new_database(server, water_template[0]) as copy:
        yield Stage(copy, water_template[1].plan)


def test_a_value_that_down_cannot_hold_survives_later_backfills(water: Stage) -> None:
    with water.session() as app:
        app.execute("UPDATE water_intake SET volume_ml = 250.55 WHERE id = 1")
        app.execute("UPDATE water_intake SET created_at = now() WHERE id = 1")
        assert backfill(water) == 0
        found = row(app, "SELECT volume_ml::text, volume, volume_unit FROM water_intake WHERE id = 1")
        assert found == ("250.55", 251, "ML")


def test_a_value_below_one_stays_what_it_is(water: Stage) -> None:
    with water.session() as app:
        app.execute("UPDATE water_intake SET volume_ml = 0.30 WHERE id = 1")
        assert row(app, "SELECT volume_ml::text, volume FROM water_intake WHERE id = 1") == ("0.30", 1)
        assert recorded(app) == []


def test_drink_water_refuses_wrong_volumes_of_either_shape(water: Stage) -> None:
    with water.session() as app:
        for statement in ("SET volume = -5", "SET volume_unit = 'XX'", "SET volume_ml = -1", "SET volume_ml = NULL"):
            with pytest.raises(psycopg.errors.IntegrityError):
                app.execute(f"UPDATE water_intake {statement} WHERE id = 1".encode())


def test_upserts_of_both_shapes(water: Stage) -> None:
    with water.session() as app:
        key = "(user_id, date_time_utc)"
        old = (
            "INSERT INTO water_intake (user_id, date_time_utc, volume, volume_unit)"
            " VALUES (1, '2030-01-01', 10, 'OZ') ON CONFLICT {} DO UPDATE SET volume = EXCLUDED.volume + 1"
        )
        new = (
            "INSERT INTO water_intake (user_id, recorded_at, volume_ml)"
            " VALUES (1, '2030-01-01+00', 99.5) ON CONFLICT (user_id, recorded_at)"
            " DO UPDATE SET volume_ml = EXCLUDED.volume_ml"
        )
        where = "SELECT volume, volume_unit, volume_ml::text FROM water_intake WHERE recorded_at = '2030-01-01+00'"
        app.execute(old.format(key).encode())
        assert row(app, where) == (10, "OZ", "295.74")
        app.execute(old.format(key).encode())
        assert row(app, where) == (11, "OZ", "325.31")
        app.execute(new.encode())
        assert row(app, where) == (100, "ML", "99.50")
        assert recorded(app) == []
