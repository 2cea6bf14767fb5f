"""Carries a recorded migration on, phase by phase, without gates and Prefect: for tests that kill the runner often.

``python -m tests.acceptance.phases CONNINFO NAME`` takes up where the ledger says; exit code 0 when all is done.
``… NAME undo`` goes back.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger
from tasks.database.progress import Progress
from tasks.database.runner import open_runner
from tasks.planning.states import PhaseState


def ignore(progress: Progress) -> None:
    """Progress interests nobody here."""


def forward(target: Target, name: str) -> None:
    for phase in _phases(target, name, lambda state: state is not PhaseState.DONE):
        with open_runner(target, name) as runner:
            runner.run_phase_at_any_time(phase, ignore)
            runner.finish_phase(phase)


def backward(target: Target, name: str) -> None:
    for phase in reversed(_phases(target, name, lambda state: state not in {PhaseState.UNDONE, PhaseState.PENDING})):
        with open_runner(target, name) as runner:
            runner.undo_phase(phase, ignore)


def _phases(target: Target, name: str, wanted: Callable[[PhaseState], bool]) -> list[str]:
    with connect(target, role="test") as connection:
        return [phase.phase for phase in Ledger(connection).phases(name) if wanted(phase.state)]


if __name__ == "__main__":
    conninfo, migration, *way = sys.argv[1:]
    (backward if way == ["undo"] else forward)(Target("acceptance", conninfo), migration)
