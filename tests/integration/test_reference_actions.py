"""Foreign keys that get other actions, or come over renamed columns: what a DELETE of a running version does meanwhile.

Two foreign keys over the same values act in the order of their triggers' names, which end in OIDs compared as text:
after 99999 comes 100000. So one never stands beside another that would do something else.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tasks.database.connection import Target
from tasks.planning.errors import UsageError
from tests.integration.staging import PHASES, carry_out, failing, planned, row, undo, written

KEEPS, CASCADES, FORGETS = "", "ON DELETE CASCADE", "ON DELETE SET NULL"
CHANGES = {
    "opened": (KEEPS, CASCADES),
    "closed": (CASCADES, KEEPS),
    "loosened": (CASCADES, FORGETS),
    "sharpened": (FORGETS, CASCADES),
    "widened": (CASCADES, "ON UPDATE CASCADE ON DELETE SET NULL"),
}
"""Foreign key → what it does with the rows of a parent that is deleted, before and after."""

FATE = {KEEPS: "refused", CASCADES: "deleted", FORGETS: "forgotten", CHANGES["widened"][1]: "forgotten"}

SCHEMA = "".join(
    f"CREATE TABLE {name}_parent (id int PRIMARY KEY);"
    f"CREATE TABLE {name} (id int PRIMARY KEY, of int CONSTRAINT {name}_of REFERENCES {name}_parent {old});"
    f"INSERT INTO {name}_parent SELECT generate_series(1, 9); INSERT INTO {name} SELECT n, n FROM {name}_parent p(n);"
    for name, (old, _) in CHANGES.items()
)
CHANGE = "".join(
    f"ALTER TABLE {name} DROP CONSTRAINT {name}_of;"
    f"ALTER TABLE {name} ADD CONSTRAINT {name}_of FOREIGN KEY (of) REFERENCES {name}_parent {new};\n"
    for name, (_, new) in CHANGES.items()
)


def fate(target: Target, name: str, number: int) -> str:
    """Delete a parent as the application would, with the youngest foreign key acting first; return what comes of it."""
    parent, child = sql.Identifier(f"{name}_parent"), sql.Identifier(name)
    with psycopg.connect(target.conninfo, autocommit=True) as application:
        application.execute("SET allow_system_table_mods = on")
        application.execute(
            "UPDATE pg_trigger SET tgname = 'RI_ConstraintTrigger_a_' || (4294967295 - oid::bigint) "
            "WHERE tgconstraint <> 0 AND tgrelid = %s::regclass",
            (f"{name}_parent",),
        )
        try:
            application.execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(parent), (number,))
        except psycopg.errors.IntegrityError:
            return "refused"
        left = application.execute(sql.SQL("SELECT of FROM {} WHERE id = %s").format(child), (number,)).fetchone()
    return "deleted" if left is None else "forgotten" if left == (None,) else "orphaned"


@pytest.mark.every_version
def test_either_the_old_actions_or_the_new_ones_and_never_both(database: Target, tmp_path: Path) -> None:
    plan = planned(database, SCHEMA, written(tmp_path, "actions", CHANGE))
    # The new version may need a cascade where the old one was refused; other actions come when the old one is gone.
    from_switch = {"opened"}
    names = [phase.name for phase in plan.phases]
    assert names == ["expand", "switch", "contract"]
    assert plan.phase("switch").heavy, "a scan for a validation is kept within the window"
    for number, phase in enumerate(names, start=1):
        carry_out(database, plan, [phase])
        for name, (old, new) in CHANGES.items():
            is_new = phase == "contract" or (phase == "switch" and name in from_switch)
            assert fate(database, name, number) == FATE[new if is_new else old], f"{name} after {phase}"
    with psycopg.connect(database.conninfo) as connection:
        valid = "SELECT count(*) FROM pg_constraint WHERE conname ~ '_of$' AND contype = 'f' AND convalidated"
        assert row(connection, valid) == (len(CHANGES),)
    undo(database, plan, names)
    for name, (old, _) in CHANGES.items():
        assert fate(database, name, 8) == FATE[old], f"{name} after going back"


def test_without_a_switch_the_scan_stands_in_a_heavy_phase(database: Target, tmp_path: Path) -> None:
    schema = SCHEMA.split("CREATE TABLE closed_parent")[0]
    plan = planned(database, schema, written(tmp_path, "opened", CHANGE.splitlines()[0]))
    assert {phase.name: phase.heavy for phase in plan.phases} == {"expand": False, "constrain": True}
    carry_out(database, plan, ["expand", "constrain"])
    assert fate(database, "opened", 1) == "deleted"


def test_a_stricter_match_is_asked_of_the_rows(database: Target, tmp_path: Path) -> None:
    """MATCH FULL beside the same columns: the old one goes with it, and a row that is half NULL is named before."""
    schema = (
        "CREATE TABLE place (a int, b int, PRIMARY KEY (a, b));"
        "CREATE TABLE visit (id int PRIMARY KEY, a int, b int, CONSTRAINT at FOREIGN KEY (a, b) REFERENCES place);"
        "INSERT INTO place VALUES (1, 1); INSERT INTO visit VALUES (1, 1, 1), (2, 1, NULL);"
    )
    change = (
        "ALTER TABLE visit DROP CONSTRAINT at;"
        "ALTER TABLE visit ADD CONSTRAINT at FOREIGN KEY (a, b) REFERENCES place MATCH FULL;"
    )
    plan = planned(database, schema, written(tmp_path, "full", change))
    before = plan.phases[0].gate_before
    assert before is not None
    assert [name for name in failing(database, before) if "at" in name]
    with psycopg.connect(database.conninfo) as connection:
        connection.execute("UPDATE visit SET b = 1 WHERE id = 2")
    assert failing(database, before) == {}
    carry_out(database, plan, PHASES)
    with psycopg.connect(database.conninfo) as connection, pytest.raises(psycopg.errors.ForeignKeyViolation):
        connection.execute("UPDATE visit SET b = NULL WHERE id = 1")


RENAMED = """
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, of int, kept int);
INSERT INTO parent VALUES (1), (2), (3);
INSERT INTO child VALUES (1, 1), (2, 2);
"""


def test_a_new_one_over_a_renamed_column_comes_when_the_old_version_is_gone(database: Target, tmp_path: Path) -> None:
    change = (
        "ALTER TABLE child RENAME of TO belongs_to;"
        "ALTER TABLE child ADD CONSTRAINT belongs FOREIGN KEY (belongs_to) REFERENCES parent ON DELETE CASCADE;"
        "ALTER TABLE child ADD first int DEFAULT 1 CONSTRAINT first REFERENCES parent;"
    )
    plan = planned(database, RENAMED, written(tmp_path, "renamed", change))
    stage = carry_out(database, plan, PHASES[:4])
    with stage.session() as old_version:
        old_version.execute("INSERT INTO child (id, of) VALUES (3, 99)")
        old_version.execute("DELETE FROM parent WHERE id IN (1, 2)")
        assert old_version.execute("SELECT id, belongs_to FROM child ORDER BY id").fetchall() == [
            (1, 1), (2, 2), (3, 99),
        ]  # fmt: skip
        gate = plan.phase("contract").gate_before
        orphans = {name for name in failing(database, gate) if name.startswith("orphans")}
        assert orphans == {"orphans:public.child:belongs:coming", "orphans:public.child:first:coming"}
        old_version.execute("INSERT INTO parent VALUES (1), (2), (99)")
        assert not [name for name in failing(database, gate) if name.startswith("orphans")]
    carry_out(database, plan, PHASES[4:])
    references = (
        "SELECT conname FROM pg_constraint WHERE conrelid = 'child'::regclass AND contype = 'f' AND convalidated"
    )
    with psycopg.connect(database.conninfo) as connection:
        assert connection.execute(f"{references} ORDER BY 1".encode()).fetchall() == [("belongs",), ("first",)]
    with stage.session() as new_version:
        new_version.execute("UPDATE child SET first = 2; DELETE FROM parent WHERE id IN (1, 99)")
        assert new_version.execute("SELECT id FROM child").fetchall() == [(2,)]


REFUSED = {
    "made anew with other actions over a renamed column": (
        "ALTER TABLE child RENAME of TO belongs_to; ALTER TABLE child DROP CONSTRAINT child_of;"
        "ALTER TABLE child ADD FOREIGN KEY (belongs_to) REFERENCES parent ON DELETE CASCADE;",
        "made anew over a renamed column that child_of is over now",
    ),
    "SET DEFAULT over a renamed column": (
        "ALTER TABLE child RENAME kept TO held;",
        "SET DEFAULT",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(database: Target, tmp_path: Path, case: str) -> None:
    change, reason = REFUSED[case]
    schema = (
        f"{RENAMED} ALTER TABLE child ADD CONSTRAINT child_of FOREIGN KEY (of) REFERENCES parent;"
        "ALTER TABLE child ALTER kept SET NOT NULL, ALTER kept SET DEFAULT 3,"
        "ADD FOREIGN KEY (kept) REFERENCES parent ON DELETE SET DEFAULT;"
    ).replace("VALUES (1, 1), (2, 2)", "VALUES (1, 1, 3), (2, 2, 3)")
    with pytest.raises(UsageError, match=reason) as refused:
        planned(database, schema, written(tmp_path, "refused", change))
    assert refused.value.safety == "Nothing was touched."
