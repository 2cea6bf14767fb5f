"""A migration of the table ``note``, planned by hand and registered, for tests of the flows.

Nothing here depends on what the planner makes of a change.
"""

from __future__ import annotations

from typing import Any

import psycopg

from tasks.database.catalog import snapshot
from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger
from tasks.planning.names import TableName
from tasks.planning.plan import (
    Action,
    Approval,
    Check,
    Gate,
    Irreversible,
    Phase,
    Plan,
    Severity,
    Step,
    Transaction,
)
from tasks.planning.schema_hash import schema_hash
from tasks.planning.states import PhaseState
from tasks.standing import Standing

NAME = "note-v2"
TABLE = TableName("public", "note")
PHASES = ("expand", "constrain", "switch", "contract")
CANARY = "canary-51c7"

SCHEMA = f"""
CREATE TABLE note (id bigint PRIMARY KEY, text text NOT NULL, words int);
INSERT INTO note SELECT n, '{CANARY} ' || n, 2 FROM generate_series(1, 20) AS n;
"""


def execute(target: Target, script: str) -> None:
    with psycopg.connect(target.conninfo, autocommit=True) as connection:
        connection.execute(script.encode())


def columns(target: Target) -> set[str]:
    with psycopg.connect(target.conninfo) as connection:
        rows = connection.execute("SELECT attname FROM pg_attribute WHERE attrelid = 'note'::regclass AND attnum > 0")
        return {name for (name,) in rows if not name.startswith("........")}


def check(name: str, condition: str, *, severity: Severity = "CRITICAL", corruption: bool = False) -> Gate:
    """A gate of one check: no row of the table meets the condition."""
    failing = f"(SELECT count(*) FROM note WHERE {condition})"
    sample = f"(SELECT coalesce(jsonb_agg(id), '[]') FROM note WHERE {condition})"
    text = f"SELECT {failing}, (SELECT count(*) FROM note), {sample}, '{{}}'::jsonb"
    found = Check(
        id=name, kind="rule", title=name, severity=severity, table=TABLE, sql=text, corruption=corruption
    )  # fmt: skip
    return Gate(name=name, title=name, checks=(found,))


def step(name: str, statement: str, *undo: str, irreversible: str = "") -> Step:
    way_back: tuple[Action, ...] | Irreversible = tuple(Transaction(statements=(text,)) for text in undo)
    return Step(
        id=name,
        title=name,
        action=Transaction(statements=(statement,)),
        undo=Irreversible(reason=irreversible) if irreversible else way_back,
    )


def make_plan(target: Target, **changes: Any) -> Plan:
    """Four phases on the table `note`: a new column, a check, a comment as the switch, and the old column dropped."""
    with connect(target, role="test") as connection:
        before = schema_hash(snapshot(connection), (TABLE,))
    phases = (
        Phase(
            name="expand",
            purpose="Add the new column",
            application="Nothing",
            steps=(
                step("e1", "ALTER TABLE note ADD COLUMN length int", "ALTER TABLE note DROP COLUMN length"),
                step("e2", "UPDATE note SET length = char_length(text)"),
            ),
            gate_before=check("not-empty", "text = ''"),
        ),
        Phase(
            name="constrain",
            purpose="Check the new column",
            application="Nothing",
            steps=(
                step(
                    "c1",
                    "ALTER TABLE note ADD CONSTRAINT positive CHECK (length > 0) NOT VALID",
                    "ALTER TABLE note DROP CONSTRAINT positive",
                ),
            ),
            gate_after=check("equality", "length IS DISTINCT FROM char_length(text)"),
        ),
        Phase(
            name="switch",
            purpose="Open the new shape",
            application="Deploy",
            steps=(step("s1", "COMMENT ON TABLE note IS 'switched'", "COMMENT ON TABLE note IS NULL"),),
            approval=Approval(question="Deploy the new version?"),
        ),
        Phase(
            name="contract",
            purpose="Drop the old column",
            application="Nothing",
            steps=(step("x1", "ALTER TABLE note DROP COLUMN words", irreversible="the old column is gone"),),
            approval=Approval(question="Remove the old shape?"),
        ),
    )
    plan = Plan(
        name=NAME,
        database="notes",
        strategy="expand-contract",
        why="a test",
        change="",
        change_hash="0",
        server_version=160000,
        phases=phases,
        tables=(TABLE,),
        scope=(TABLE,),
        schema_before=before,
        reverse="name: note-v1\n",
    )
    return plan.model_copy(update=changes)


def with_gate(plan: Plan, phase: str, gate: Gate) -> Plan:
    """The same plan with another gate after one phase."""
    changed = tuple(
        found.model_copy(update={"gate_after": gate}) if found.name == phase else found for found in plan.phases
    )
    return plan.model_copy(update={"phases": changed})


def register(target: Target, plan: Plan) -> None:
    with connect(target, role="test") as connection:
        Ledger(connection).register(plan, "")


def run(**options: Any) -> Any:
    from flows.expand_contract import expand_contract

    return expand_contract(NAME, "notes", **options)


def approve(target: Target, subject: str, **options: Any) -> None:
    approve_as(target, NAME, subject, **options)


def approve_as(target: Target, migration: str, subject: str, **options: Any) -> None:
    """Approve what a migration of this name waits for."""
    with connect(target, role="test") as connection:
        Ledger(connection).approve(migration, subject, who="tester", **options)


def states(standing: Standing) -> list[PhaseState]:
    return [standing.phases[phase].state for phase in PHASES if phase in standing.phases]


def attempts(standing: Standing) -> list[int]:
    return [standing.phases[phase].attempts for phase in PHASES]
