"""Every migration's state, judged by us and by the real Flyway, over folders and histories that change."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tasks.database.connection import Target
from tasks.planning.errors import SpecError
from tasks.planning.flyway.history import State
from tasks.planning.flyway.settings import Settings
from tasks.planning.flyway.validation import validate
from tasks.planning.flyway.versions import parse_version
from tests.integration.beside_flyway import (
    SESSION_LOCK,
    agree,
    judged,
    migrates,
    states,
    told,
    versions,
    write,
)
from tests.integration.real_flyway import FlywayFailed, RealFlyway


@pytest.mark.every_version
def test_a_history_with_everything_in_it(flyway: RealFlyway, database: Target, tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {
            "V1__a.sql": "CREATE TABLE a (id int); INSERT INTO a VALUES (1), (1);",
            "V3__c.sql": "SELECT 3;",
            "V4__d.sql": "SELECT 4;",
            "V5__e.sql": "SELECT 5;",
            "R__v.sql": "CREATE OR REPLACE VIEW v AS SELECT 1 AS x;",
            "R__w.sql": "SELECT 1;",
        },
    )
    agree(flyway, database, folder)
    assert migrates(flyway, database, folder)
    assert agree(flyway, database, folder).pending() == ()

    # A file changed, one renamed, one gone; one that comes too late; repeatable ones changed and gone.
    write(folder, {"V1__a.sql": "CREATE TABLE a (id bigint);", "V2__b.sql": "SELECT 2;"})
    (folder / "V3__c.sql").rename(folder / "V3__other.sql")
    (folder / "V4__d.sql").unlink()
    (folder / "R__w.sql").unlink()
    write(folder, {"R__v.sql": "CREATE OR REPLACE VIEW v AS SELECT 2 AS x;"})
    found = states(agree(flyway, database, folder))
    assert found["V2__b.sql"] is State.IGNORED
    assert found["V4__d.sql"] is found["R__w.sql"] is State.MISSING_SUCCESS
    assert [each.script for each in judged(database, folder, Settings()).pending()] == ["R__v.sql"]
    codes = {problem.script: problem.code for problem in validate(judged(database, folder, Settings()))}
    assert codes["V1__a.sql"] == "CHECKSUM_MISMATCH"
    assert codes["V3__c.sql"] == "DESCRIPTION_MISMATCH"
    assert not migrates(flyway, database, folder)
    in_any_order = Settings(out_of_order=True)
    agree(flyway, database, folder, in_any_order)
    flyway("repair", database, folder)
    assert migrates(flyway, database, folder, in_any_order)
    found = states(agree(flyway, database, folder, in_any_order))
    assert found["V2__b.sql"] is State.OUT_OF_ORDER
    assert found["V4__d.sql"] is State.DELETED

    # A statement outside a transaction fails, and leaves its row.
    write(folder, {"V6__index.sql": "CREATE UNIQUE INDEX CONCURRENTLY u ON a (id);"})
    with pytest.raises(FlywayFailed, match="could not create unique index"):
        flyway("migrate", database, folder)
    # With the lock in a transaction, the row about the failure is rolled back with it: Flyway does not know of it.
    assert agree(flyway, database, folder).failed() == ()
    with pytest.raises(FlywayFailed, match="already exists"):
        flyway("migrate", database, folder, **SESSION_LOCK)
    broken = agree(flyway, database, folder)
    assert [each.script for each in broken.failed()] == ["V6__index.sql"]
    assert not migrates(flyway, database, folder)
    flyway("repair", database, folder)
    assert [each.script for each in agree(flyway, database, folder).pending()] == ["V6__index.sql"]


def test_baselines(flyway: RealFlyway, database: Target, tmp_path: Path) -> None:
    folder = write(tmp_path, {f"V{n}__x.sql": "SELECT 1;" for n in range(1, 6)} | {"B3__sum.sql": "SELECT 3;"})
    assert [each.script for each in agree(flyway, database, folder).pending()] == [
        "B3__sum.sql", "V4__x.sql", "V5__x.sql",
    ]  # fmt: skip
    flyway("baseline", database, folder, baselineVersion="2")
    found = states(agree(flyway, database, folder))
    assert found["V1__x.sql"] is State.BELOW_BASELINE
    assert found["V2__x.sql"] is State.BASELINE_IGNORED
    agree(flyway, database, folder, Settings(target=parse_version("3")))
    assert migrates(flyway, database, folder)
    agree(flyway, database, folder)


def test_a_new_database_begins_with_the_baseline(flyway: RealFlyway, database: Target, tmp_path: Path) -> None:
    folder = write(tmp_path, {"B3__sum.sql": "SELECT 3;", "V2__x.sql": "SELECT 2;", "V4__x.sql": "SELECT 4;"})
    assert migrates(flyway, database, folder)
    assert states(agree(flyway, database, folder))["B3__sum.sql"] is State.BASELINE
    write(folder, {"B5__later.sql": "SELECT 5;", "V5__x.sql": "SELECT 5;"})
    assert states(agree(flyway, database, folder))["B5__later.sql"] is State.IGNORED


def test_any_name_of_schema_and_table(flyway: RealFlyway, database: Target, tmp_path: Path) -> None:
    settings = Settings(default_schema='Odd "schema', table="Odd history's")
    folder = write(tmp_path, {"V1__a.sql": "CREATE TABLE a (id int);"})
    assert judged(database, folder, settings).all[0].state is State.PENDING
    assert migrates(flyway, database, folder, settings)
    # The row about the schema that Flyway made is one of the history's.
    assert [each.type for each in agree(flyway, database, folder, settings).all] == ["SCHEMA", "SQL"]


@pytest.mark.parametrize("seed", range(2))
def test_random_histories(flyway: RealFlyway, database: Target, tmp_path: Path, seed: int) -> None:
    """Files come, change and go between runs of Flyway: whatever comes of it, both tell the same."""
    chance = random.Random(seed)
    names = [f"V{n}__x.sql" for n in ("1", "2", "2.1", "3", "4", "10")] + [
        "R__a.sql",
        "R__b.sql",
        "B2__b.sql",
        "B4__b.sql",
    ]
    for _ in range(10):
        settings = Settings(
            out_of_order=chance.random() < 0.3, validate_on_migrate=chance.random() < 0.5,
            target=parse_version("3") if chance.random() < 0.2 else None,
        )  # fmt: skip
        for name in chance.sample(names, 2):
            if (tmp_path / name).exists() and chance.random() < 0.4:
                (tmp_path / name).unlink()
            else:
                # A failure outside a transaction stays; most succeed.
                text = chance.choice(["SELECT 1;", "SELECT 1;", "SELECT 2;", "DROP INDEX CONCURRENTLY not_there;"])
                write(tmp_path, {name: text})
        if settings.target not in (None, *versions(database, tmp_path)):
            with pytest.raises(SpecError, match="No migration has the target's version 3"):
                judged(database, tmp_path, settings)
            with pytest.raises(FlywayFailed, match="No migration with a target version 3"):
                flyway("info", database, tmp_path, **told(settings))
            continue
        agree(flyway, database, tmp_path, settings)
        match chance.choice(["migrate", "migrate", "repair", "nothing"]):
            case "migrate":
                fails = any("not_there" in each.text for each in judged(database, tmp_path, settings).pending())
                if fails:
                    with pytest.raises(FlywayFailed):
                        flyway("migrate", database, tmp_path, **told(settings))
                else:
                    migrates(flyway, database, tmp_path, settings)
            case "repair":
                flyway("repair", database, tmp_path, **told(settings))
        agree(flyway, database, tmp_path, settings)
