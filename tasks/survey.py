"""One look at the database of a plan: what is seen, what is foretold, and what the other strategies would cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import psycopg

from tasks.database.connection import Target
from tasks.database.failures import connection_lost, described
from tasks.database.foresight import survey
from tasks.database.records import MigrationRecord
from tasks.database.rehearsal import rehearse
from tasks.lint import look_at
from tasks.planning.errors import CannotConnect, LockstepError, RehearsalFailed, UsageError
from tasks.planning.findings.judging import Verdict
from tasks.planning.plan import Plan
from tasks.planning.script import script
from tasks.planning.spec import LoadedSpec
from tasks.planning.states import UNFINISHED
from tasks.planning.today import Survey
from tasks.queries import timings_now

BRIEF_SECONDS = 1.0
"""Between two looks at the counters, where somebody waits for the migration to begin. Sessions report once a second."""


def surveyed(
    loaded: LoadedSpec, target: Target, plan: Plan, stored: MigrationRecord | None, say: Callable[[str], None]
) -> Survey | None:
    """Look at the database for about ten seconds; None, with the reason said, where it or a scratch server is lost."""
    say(f"Looking at {target.name} for some seconds: what is written, and who is in the way.")
    try:
        return Survey(*survey(target, plan), timings_now(target, plan), _as_written(loaded, target, stored))
    except (CannotConnect, psycopg.Error) as error:
        say(f"The plan is without what is seen and foretold: {_why(error)}")
    return None


def foreseen(target: Target, plan: Plan, say: Callable[[str], None]) -> Survey | None:
    """Look at the database of a plan that is about to run, and foretell it: a second or two, and three a large table.

    The counters are looked at for a second only. None, with the reason said, where the look fails, however it does: a
    migration can be carried out without a forecast.
    """
    try:
        return Survey(*survey(target, plan, sample_seconds=BRIEF_SECONDS))
    except Exception as error:  # noqa: BLE001 - a full disk of this machine, a server that has no such function, …
        say(f"The plan's forecasts are built in, and not this database's: {_why(error)}")
    return None


def _why(error: Exception) -> str:
    """Return why a look failed, without what a message of another's may hold."""
    match error:
        case LockstepError():
            return error.what
        case psycopg.Error() if connection_lost(error):
            return f"the connection was lost (SQLSTATE {error.sqlstate})."
        case psycopg.Error():
            return f"{described(error)}."
        case OSError():
            return f"{error.strerror or type(error).__name__}."
        case _:
            return f"{type(error).__name__}."


def _as_written(loaded: LoadedSpec, target: Target, stored: MigrationRecord | None) -> tuple[Verdict, ...] | None:
    """Judge the change as if it were simply run; in the middle of a migration there is nothing to judge it on."""
    if stored is not None and stored.state in UNFINISHED:
        return None
    return look_at([script(part.text, part.source) for part in loaded.parts], target).verdicts


def rehearsed(
    seen: Survey | None,
    target: Target,
    plan: Plan,
    stored: MigrationRecord | None,
    rows: int,
    say: Callable[[str], None],
) -> Survey | None:
    """Rehearse the plan on a clone with made-up rows, and return the survey with what that showed.

    Raises UsageError for a migration that is under way, RehearsalFailed without a survey, Unsupported where there is
    no place for it, and as a plan does.
    """
    if stored is not None and stored.state in UNFINISHED:
        raise UsageError(
            f"{plan.name} is under way ({stored.state}): a rehearsal begins where nothing is done yet.",
            remedy="Plan without --rehearse.",
        )
    if not plan.phases:
        say("There is nothing to rehearse.")
        return seen
    if seen is None:
        raise RehearsalFailed(
            f"{plan.name} was not rehearsed: its database could not be looked at.",
            safety="Nothing was touched.",
            remedy="Try again, or plan without --rehearse.",
        )
    say(f"Rehearsing on a clone with up to {rows:,} made-up rows a table: there, back, and to the end.")
    return replace(seen, rehearsal=rehearse(plan, target, seen.facts, rows=rows))
