"""`lockstep status`: where a migration stands, for people and for programs."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from typing import Any

from rich.table import Table

from flows import console, known
from tasks.account import Account, account_of
from tasks.database.connection import connect
from tasks.database.ledger import Ledger
from tasks.database.records import PhaseRecord
from tasks.databases import target_of
from tasks.planning.states import MigrationState, PhaseState
from tasks.standing import Standing, standing_of

APART = re.compile(r"\s{2,}")
"""What stands between a command and the words around it."""
RESTING = (PhaseState.RUNNING, MigrationState.WAITING)


def status(name: str | None, database: str | None, form: str) -> int:
    """Print where one migration stands, or all of a database."""
    target = target_of(known.database_of(name, database))
    if name is not None:
        standing = standing_of(target, name)
        if form == "json":
            console.print_json(status_document(standing))
        else:
            _print_standing(standing)
        return console.EXIT_DONE
    with connect(target, role="status") as connection:
        names = [record.name for record in Ledger(connection).migrations()]
    standings = [standing_of(target, found) for found in names]
    if form == "json":
        console.print_json([status_document(standing) for standing in standings])
        return console.EXIT_DONE
    if not standings:
        console.out().print(f"No migration is recorded in {target.name}.", markup=False)
    for standing in standings:
        console.out().print(f"{standing.name}: {told(standing).where}", markup=False)
    return console.EXIT_DONE


def status_document(standing: Standing) -> dict[str, Any]:
    """Return a migration's status for programs."""
    account = told(standing)
    wait = standing.waits_for
    return {
        "migration": standing.name,
        "database": standing.plan.database,
        "state": standing.state.value,
        "where": account.where,
        "safe": account.safe,
        "next": account.next,
        "back": account.back,
        "waits_for": {"reason": wait.reason, "subject": wait.subject, "until": wait.until} if wait else None,
        "throttle": standing.throttle.model_dump(mode="json", exclude={"load"}),
        "switched_at": standing.record.switched_at,
        "error": standing.record.error,
        "phases": [
            record.model_dump(mode="json", exclude={"position"})
            for record in sorted(standing.phases.values(), key=lambda record: record.position)
        ],
        "progress": [record.model_dump(mode="json", exclude={"cursor"}) for record in standing.progress],
        "gates": [record.result.model_dump(mode="json") for record in standing.gates.values()],
        "approvals": [approval.model_dump(mode="json") for approval in standing.approvals],
        "sync_failures": [failure.model_dump(mode="json") for failure in standing.failures],
    }


def told(standing: Standing) -> Account:
    """Return the four answers; of a cleaned migration, those of the end that it came to."""
    account = account_of(standing)
    if standing.state is not MigrationState.CLEANED:
        return account
    ended = "it was rolled back" if standing.was is MigrationState.ROLLED_BACK else "it was finished"
    safe = account_of(replace(standing, record=standing.record.model_copy(update={"state": standing.was}))).safe
    return replace(account, where=f"Cleaned: {ended}, and only a summary is kept", safe=safe)


def lines(answer: str) -> list[str]:
    """Return an answer in lines of which each command has one to itself, ready to be copied."""
    parts = [part for line in answer.splitlines() for part in APART.split(line.strip())]
    return [f"    {part}" if part.startswith("lockstep ") else f"  {part}" for part in parts if part]


def _print_standing(standing: Standing) -> None:
    account, out = told(standing), console.out()
    questions = ("Where is it", "Is the data safe", "What is next", "How to go back")
    answers = (account.where, account.safe, account.next, account.back)
    for question, answer in zip(questions, answers, strict=True):
        out.print(f"{question}?", style="bold")
        for line in lines(answer):
            out.print(line, markup=False)
    table = Table("Phase", "State", "Attempts", "Started", "Finished")
    for phase in standing.plan.phases:
        if (record := standing.phases.get(phase.name)) is not None:
            times = map(_time, (record.started_at, record.finished_at))
            table.add_row(phase.name, phase_state(standing, record), str(record.attempts), *times)
    if table.row_count:
        out.print(table)
    for progress in standing.progress:
        of = f" of {progress.rows_total:,}" if progress.rows_total else ""
        out.print(f"{progress.step}: {progress.rows_done:,}{of} rows", markup=False)


def phase_state(standing: Standing, record: PhaseRecord) -> str:
    """Return a phase's state; of one that the end of a window stopped in the middle, that it waits."""
    return "waiting" if (record.state, standing.state) == RESTING else record.state.value


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}" if at else ""
