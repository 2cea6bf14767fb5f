"""The small migration of `readings` where its rows are being filled: expanded, filled, and what would be wrong then."""

from __future__ import annotations

from typing import Any

from tasks.database.connection import Target
from tasks.database.locks import Patience
from tasks.database.progress import Progress
from tasks.database.runner import open_runner
from tasks.planning.plan import Backfill
from tests.integration.synthetic import EXPAND, FILL, NAME, backfill, ignore, phase, plan, register, step, transaction

WRONG = "SELECT count(*) FROM readings WHERE millilitres IS DISTINCT FROM litres * 1000 OR lockstep_pending <> 0"


def expanded(target: Target, action: Backfill | None = None, **changes: Any) -> None:
    """Register expand and backfill, with ``changes`` of the plan's fields, and run expand."""
    fill = step(FILL, action or backfill())
    made = plan(phase("expand", transaction("expand/readings", *EXPAND)), phase("backfill", fill))
    register(target, made.model_copy(update=changes))
    with open_runner(target, NAME) as runner:
        runner.run_phase("expand", ignore)


def fill(target: Target, patience: Patience | None = None) -> list[Progress]:
    """Run the backfill and return what it told."""
    told: list[Progress] = []
    with open_runner(target, NAME, patience=patience) as runner:
        runner.run_phase("backfill", told.append)
    return told
