"""Carries a recorded migration on in a process that may be killed: ``python -m tests.campaign.runner NAME …``.

The order is the flow's: gate, steps, gate, phase by phase; the gates' own statements are asked directly, so that a
start costs no import of Prefect and Great Expectations. ``… until PHASE`` stops after a phase, ``… undo`` goes back.
The database comes by the environment: its connection string has a password, and everybody sees a process's arguments.
Exit code 0: done; 3: a gate fails; 1 with a sentence on stderr: stopped, as the command line would be.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger
from tasks.database.progress import Progress
from tasks.database.runner import open_runner
from tasks.planning.errors import LockstepError
from tasks.planning.plan import Gate, Plan
from tasks.planning.states import MigrationState, PhaseState

DATABASE = "LOCKSTEP_CAMPAIGN_DATABASE"
UNANSWERED = frozenset({"old_writers"})
"""Asks for a quiet time of minutes, which a campaign does not have."""
GATE_FAILS = 3


class GateFails(Exception):
    """A CRITICAL check of a gate fails."""


def ignore(progress: Progress) -> None:
    """Progress interests nobody here."""


def forward(target: Target, name: str, until: str | None) -> None:
    plan = _begin(target, name, MigrationState.RUNNING)
    for phase in plan.phases:
        state = _state(target, name, phase.name)
        if state is not PhaseState.DONE:
            if state in (PhaseState.PENDING, PhaseState.UNDONE):
                _ask(target, plan, phase.gate_before)
            with open_runner(target, name) as runner:
                runner.run_phase(phase.name, ignore)
            if phase.gate_after is not None:
                with open_runner(target, name) as runner:
                    runner.settle(ignore)
                _ask(target, plan, phase.gate_after)
            with open_runner(target, name) as runner:
                runner.finish_phase(phase.name)
        if phase.name == "switch":
            with connect(target, role="campaign") as connection:
                Ledger(connection).set_switched(name)
        if phase.name == until:
            return


def backward(target: Target, name: str) -> None:
    plan = _begin(target, name, MigrationState.ROLLING_BACK)
    for phase in reversed(plan.phases):
        if _state(target, name, phase.name) not in (PhaseState.PENDING, PhaseState.UNDONE):
            with open_runner(target, name) as runner:
                runner.undo_phase(phase.name, ignore)


def _begin(target: Target, name: str, state: MigrationState) -> Plan:
    with connect(target, role="campaign") as connection:
        ledger = Ledger(connection)
        ledger.set_state(name, state)
        return ledger.known_migration(name).plan


def _state(target: Target, name: str, phase: str) -> PhaseState:
    with connect(target, role="campaign") as connection:
        return next(record.state for record in Ledger(connection).phases(name) if record.phase == phase)


def _ask(target: Target, plan: Plan, gate: Gate | None) -> None:
    if gate is None:
        return
    failing = []
    with connect(target, role="campaign", settings=plan.settings) as connection:
        for check in gate.checks:
            if check.severity == "CRITICAL" and check.kind not in UNANSWERED:
                row = connection.execute(check.sql.encode()).fetchone()
                if row is None or row[0] != 0:
                    failing.append(f"{check.title}: {row}")
    if failing:
        raise GateFails(f"gate {gate.name}: {'; '.join(failing)}")


def main(arguments: Sequence[str]) -> int:
    name, *way = arguments
    target = Target("campaign", os.environ[DATABASE])
    try:
        match way:
            case ["undo"]:
                backward(target, name)
            case ["until", phase]:
                forward(target, name, phase)
            case _:
                forward(target, name, None)
    except GateFails as fault:
        print(fault, file=sys.stderr)  # noqa: T201
        return GATE_FAILS
    except LockstepError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
