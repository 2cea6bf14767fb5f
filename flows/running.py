"""Commands that change a migration: run, approve, rollback, cleanup. They run the flows in this process."""

from __future__ import annotations

from dataclasses import dataclass

from flows import console, known
from tasks.outcome import Outcome


@dataclass(frozen=True)
class Asked:
    """What a run was asked for; with ``yes`` every approval is given by the present user."""

    until: str | None
    yes: bool
    waive_soak: bool
    ignore_window: bool


def run(migration: str, database: str, asked: Asked, *, json: bool) -> int:
    """Run the flow of a migration as far as it goes."""
    from flows.expand_contract import expand_contract
    from flows.terminal import shown
    from tasks.approval import present_user

    approved_by = f"{present_user()} (--yes)" if asked.yes else None
    with shown():
        outcome = expand_contract(
            migration, database, until=asked.until, approved_by=approved_by, waive_soak=asked.waive_soak,
            ignore_window=asked.ignore_window,
        )  # fmt: skip
    if not isinstance(outcome, Outcome):
        raise TypeError(f"the flow returned {type(outcome).__name__}")
    known.remember(outcome.migration, outcome.database)
    return _end(outcome, json)


def go_back(name: str, database: str, *, to: str | None, old_version_deployed: bool) -> int:
    """Run the flow that goes back."""
    from flows.rollback import rollback
    from flows.terminal import shown

    with shown():
        outcome = rollback(name, database, to, old_version_deployed)
    return _end(outcome, json=False)


def approve(name: str, database: str | None, *, why: str, waive_soak: bool) -> int:
    """Approve what a migration waits for, in the present user's name."""
    from tasks.approval import approve_next, present_user
    from tasks.databases import target_of
    from tasks.standing import standing_of

    target = target_of(known.database_of(name, database))
    subject = approve_next(target, name, who=present_user(), why=why, waive_soak=waive_soak)
    wait = standing_of(target, name).waits_for
    waived = ", the soak waived" if waive_soak else ""
    due = f" {wait.question}" if wait is not None and wait.reason != "approval" else ""
    what = f"Approved: {subject} of {name}{waived}.{due} Next:  lockstep run {name} --database {target.name}"
    console.out().print(what, markup=False)
    return console.EXIT_DONE


def cleanup(name: str, database: str | None) -> int:
    """Remove what the ledger keeps of a migration that is over."""
    from tasks.cleanup import clean_up
    from tasks.databases import target_of

    removed = clean_up(target_of(known.database_of(name, database)), name)
    console.out().print(f"{name}: {removed} detail rows removed from the ledger; its summary stays.")
    return console.EXIT_DONE


def _end(outcome: Outcome, json: bool) -> int:
    if json:
        from flows.views import status_document
        from tasks.databases import target_of
        from tasks.standing import standing_of

        document = status_document(standing_of(target_of(outcome.database), outcome.migration))
        console.print_json({"outcome": outcome.kind, **document})
    printer = console.err() if json else console.out()
    printer.print(outcome.what, style="bold", markup=False)
    if outcome.remedy:
        printer.print(outcome.remedy, markup=False)
    return console.EXIT_WAITING if outcome.kind == "waiting" else console.EXIT_DONE
