"""Migrations carried out as a run does it, with runner, lease, real backfill and the gates' own SQL, but by hand.

Without Prefect and Great Expectations, so that a test can stand between any two phases, and takes a second or two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from expectations.session import open_session
from tasks.database import oracle
from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger
from tasks.database.locks import Patience
from tasks.database.runner import open_runner
from tasks.planning.plan import Gate, Plan
from tests.integration.staging import written
from tests.integration.synthetic import ignore

IMPATIENT = Patience(tries=3, seconds=5, first_wait=0.05, longest_wait=0.1)


@dataclass(frozen=True)
class Journey:
    """A registered migration of one database."""

    target: Target
    plan: Plan

    @property
    def phases(self) -> tuple[str, ...]:
        return tuple(phase.name for phase in self.plan.phases)

    def run(self, *phases: str, patience: Patience | None = None) -> None:
        """Carry phases out and close them, without their gates."""
        for name in phases:
            with open_runner(self.target, self.plan.name, patience=patience) as runner:
                runner.run_phase(name, ignore)
                runner.finish_phase(name)

    def go(self, *phases: str) -> None:
        """Carry phases out with their gates, which must hold; to the end where none is named."""
        for name in phases or self.phases:
            phase = self.plan.phase(name)
            self._must_hold(phase.gate_before)
            self.run(name)
            self._must_hold(phase.gate_after)

    def undo(self, *phases: str) -> None:
        with open_runner(self.target, self.plan.name) as runner:
            for name in reversed(phases):
                runner.undo_phase(name, ignore)

    def settle(self, patience: Patience | None = None) -> None:
        """What a run does before a gate asks for unfilled rows."""
        with open_runner(self.target, self.plan.name, patience=patience) as runner:
            runner.settle(ignore)

    def failing(self, name: str) -> dict[str, int]:
        """Return the CRITICAL checks of a gate that fail now, with how many rows fail each."""
        gates = (gate for phase in self.plan.phases for gate in (phase.gate_before, phase.gate_after))
        return self._failing(next(gate for gate in gates if gate is not None and gate.name == name))

    def _must_hold(self, gate: Gate | None) -> None:
        if gate is not None and any(check.kind == "unfilled" for check in gate.checks):
            self.settle()
        failing = self._failing(gate)
        assert failing == {}, (gate.name if gate else "", failing)

    def _failing(self, gate: Gate | None) -> dict[str, int]:
        if gate is None:
            return {}
        found = {}
        with open_session(self.target, self.plan.settings) as connection:
            for check in gate.checks:
                row = connection.execute(check.sql.encode()).fetchone()
                connection.commit()
                assert row is not None
                if row[0] and check.severity == "CRITICAL":
                    found[check.id] = int(row[0])
        return found


def execute(target: Target, *scripts: str) -> None:
    """Run SQL scripts, each in a transaction of its own."""
    with psycopg.connect(target.conninfo, autocommit=True) as connection:
        for script in scripts:
            connection.execute(script.encode())


def rows(target: Target, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(target.conninfo, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


def only(target: Target, query: str) -> Any:
    """Return the one value of a query."""
    ((value,),) = rows(target, query)
    return value


def prepared(
    target: Target, folder: Path, schema: str, change: str, mapping: str = "", *, by: Target | None = None
) -> Journey:
    """Create a schema, plan the change of it, register the plan. ``by`` plans and registers as another role."""
    execute(target, schema)
    return started(by or target, folder, change, mapping)


def started(target: Target, folder: Path, change: str, mapping: str = "", name: str = "fault") -> Journey:
    """Plan a change of the schema that is there and register the plan."""
    loaded = written(folder, name, change, f"mapping: {mapping}\n" if mapping else "")
    plan = oracle.plan(loaded, target)
    with connect(target, role="test") as connection:
        Ledger(connection).register(plan, loaded.text)
    return Journey(target, plan)


def eventually(condition: Callable[[], bool], what: str, *, seconds: float = 20) -> None:
    """Wait until a condition holds."""
    import time

    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def columns(target: Target, table: str) -> Sequence[str]:
    return [
        str(name)
        for (name,) in rows(
            target,
            f"SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 "
            "AND NOT attisdropped ORDER BY attnum",
        )
    ]
