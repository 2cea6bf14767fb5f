"""The tasks `phase` and `undo`: one phase of the plan forwards or backwards, by a runner of its own."""

from __future__ import annotations

from collections.abc import Callable

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import ProgressBar
from tasks.database.connection import connect
from tasks.database.fingerprint import require_schema
from tasks.database.ledger import Ledger
from tasks.database.progress import Progress
from tasks.database.runner import open_runner
from tasks.databases import target_of
from tasks.narration import say, show_progress
from tasks.planning.errors import Waiting
from tasks.secrecy import discreet


@task(name="phase", task_run_name="phase: {phase}", cache_policy=NO_CACHE, persist_result=False, retries=0)
def run_phase(migration: str, database: str, phase: str, *, ignore_window: bool) -> Waiting | None:
    """Run a phase's steps that are not done yet. Between phases nobody holds the lease or a lock.

    Returns, and does not raise, that it waits for the plan's window: for Prefect the task has not failed then.
    """
    with discreet(), open_runner(target_of(database), migration) as runner:
        purpose = runner.plan.phase(phase).purpose
        say(f"phase {phase}: {purpose}")
        with connect(target_of(database), role="schema", settings=runner.plan.settings) as connection:
            require_schema(connection, runner.plan, runner.plan.phase(phase), runner.ledger.steps(migration))
        work = runner.run_phase_at_any_time if ignore_window else runner.run_phase
        try:
            work(phase, reporter(migration, phase))
        except Waiting as due:
            return due
        say(f"phase {phase}: carried out")
    return None


def close_phase(migration: str, database: str, phase: str) -> None:
    """Mark a phase as done: its steps are, and its gate held."""
    with discreet(), open_runner(target_of(database), migration) as runner:
        runner.finish_phase(phase)


def open_switch(migration: str, database: str) -> None:
    """Record that the new application version may be deployed; the first time counts, and the soak begins."""
    with discreet(), connect(target_of(database), role="switch") as connection:
        Ledger(connection).set_switched(migration)
    say("The new application version may be deployed from here on.")


@task(name="undo", task_run_name="undo: {phase}", cache_policy=NO_CACHE, persist_result=False, retries=0)
def undo_phase(migration: str, database: str, phase: str) -> None:
    """Undo a phase's steps in reverse, as far as they were done."""
    with discreet(), open_runner(target_of(database), migration) as runner:
        say(f"undo {phase}")
        runner.undo_phase(phase, reporter(migration, phase))
        say(f"undo {phase}: done")


def reporter(migration: str, phase: str) -> Callable[[Progress], None]:
    """Return what a runner reports to: an artifact of the run, and whoever listens."""
    bar = ProgressBar(migration, phase)
    held = ""

    def report(progress: Progress) -> None:
        nonlocal held
        if progress.throttled and not held:
            say(f"throttled: {progress.throttled}. The work waits; `lockstep throttle {migration}` shows the limits.")
        elif held and not progress.throttled:
            say("throttled no more: the work goes on.")
        held = progress.throttled
        show_progress(progress)
        bar.show(percent(progress), f"{progress.title}: {describe(progress)}")

    return report


def percent(progress: Progress) -> float:
    return 100.0 * progress.rows_done / progress.rows_total if progress.rows_total else 0.0


def describe(progress: Progress) -> str:
    """Return e.g. ``120,000 of 200,000 rows, 45,210 rows/s, 2 s left``, or why it waits."""
    if progress.throttled:
        return f"{progress.rows_done:,} of {progress.rows_total:,} rows, throttled: {progress.throttled}"
    left = f", {progress.eta_seconds:,.0f} s left" if progress.eta_seconds is not None else ""
    rate = f", {progress.rows_per_second:,.0f} rows/s" if progress.rows_per_second else ""
    return f"{progress.rows_done:,} of {progress.rows_total:,} rows{rate}{left}"
