"""Whether a step of a heavy phase may begin now, by the maintenance window and by how long the step will take.

Work that stops between two batches begins whenever the window is open. A step that cannot be stopped without losing
what it did begins only where it is expected to end before the window does. One that is longer than a whole window is
tried once, from the start of one, because forecasts are of the worst case; then a person is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from tasks.planning.errors import Waiting
from tasks.planning.plan import IN_BATCHES, Note, Phase, Step
from tasks.planning.windows import Window
from tasks.planning.wording import duration

FROM_THE_START = 0.9
"""The part of an opening that has to be left for work which may need all of it."""
LEAST_FORECAST = 1.0
"""Seconds: what is forecast to be shorter tells nothing of this server's pace."""


class Measured(NamedTuple):
    """A step that is done, and how many seconds it took."""

    step: Step
    seconds: float


@dataclass(frozen=True)
class Work:
    """What wants to begin inside a window: in how many ``seconds`` it will be done, 0 if it can stop at any moment.

    ``cut_after``: after how many seconds the end of a window has stopped it before, at most; 0 if none has.
    """

    title: str
    seconds: float = 0.0
    cut_after: float = 0.0

    @property
    def least(self) -> float:
        """The seconds that have to be left."""
        return max(self.seconds, self.cut_after)


@dataclass(frozen=True)
class Obstacle:
    """Why work does not begin now, in sentences; ``until``: when it may, None where no opening is long enough."""

    why: str
    until: datetime | None


def expected_seconds(step: Step, measured: Iterable[Measured]) -> float:
    """Return how long a step will take: its worst forecast, at the pace of the slowest such step that is done here.

    0 for a backfill, which stops between two batches and loses nothing.
    """
    if isinstance(step.action, IN_BATCHES):
        return 0.0
    paces = [
        done.seconds / done.step.forecast.worst
        for done in measured
        if type(done.step.action) is type(step.action) and done.step.forecast.worst >= LEAST_FORECAST
    ]
    return max(step.forecast.best, step.forecast.worst * max(paces, default=1.0))


def obstacle(window: Window, work: Work, now: datetime) -> Obstacle | None:
    """Return what keeps work from beginning now; None when it may."""
    opening, coming = window.opening_at(now), window.next_opening(now)
    again = window.told(coming.opens)
    if work.cut_after >= FROM_THE_START * coming.seconds:
        return Obstacle(
            f"{work.title} had a whole maintenance window ({window}) and was not done when it closed, after "
            f"{duration(work.cut_after)}.",
            until=None,
        )
    if opening is None:
        return Obstacle(f"The maintenance window ({window}) opens on {again}.", coming.opens)
    left = (opening.closes - now).total_seconds()
    if work.least <= left:
        return None
    if work.least <= coming.seconds:
        return Obstacle(
            f"{work.title} takes about {duration(work.least)}, and the maintenance window ({window}) closes in "
            f"{duration(left)}. It opens again on {again}.",
            coming.opens,
        )
    if left >= FROM_THE_START * opening.seconds:
        return None
    return Obstacle(
        f"{work.title} may take {duration(work.least)}, longer than a whole maintenance window ({window}), so it "
        f"begins only at the start of one. It opens again on {again}.",
        coming.opens,
    )


def closed(window: Window, rest: str, now: datetime) -> Obstacle:
    """Return what stops work that was under way when the window closed; ``rest`` is a sentence about what is left."""
    coming = window.next_opening(now)
    return Obstacle(
        f"The maintenance window ({window}) has closed. {rest}It opens again on {window.told(coming.opens)}.",
        coming.opens,
    )


def waiting(name: str, database: str, phase: str, found: Obstacle) -> Waiting:
    """Return the exception that says why a phase waits for the window, and which command comes next."""
    return Waiting(
        f"{name} waits in {phase}: {found.why}",
        reason="window",
        phase=phase,
        remedy=remedy(name, database, found.until),
    )


def remedy(name: str, database: str, until: datetime | None) -> str:
    """Return the commands for a migration that waits for its window, each with two spaces before it."""
    run = f"lockstep run {name} --database {database}"
    if until is None:
        return f"Give the spec a longer window and run it again, or go on outside of it:  {run} --ignore-window"
    return (
        f"Then:  {run}   (the deployment `continue` does so by itself)\n"
        f"Now already, outside of it:  {run} --ignore-window"
    )


def window_notes(window: Window | None, phases: Sequence[Phase]) -> tuple[Note, ...]:
    """Return what a planner has to say about a window: steps that may not fit, and backfills that need several."""
    if window is None:
        return ()
    return tuple(
        _note(window, step)
        for phase in phases
        if phase.heavy
        for step in phase.steps
        if step.forecast.worst > window.seconds
    )


def _note(window: Window, step: Step) -> Note:
    length, worst = duration(window.seconds), duration(step.forecast.worst)
    if isinstance(step.action, IN_BATCHES):
        return Note(
            severity="INFO",
            text=f"Step {step.id} may take {worst}, and the maintenance window ({window}) is {length} long: it stops "
            "when the window closes and goes on in the next one.",
        )
    return Note(
        severity="WARNING",
        text=f"Step {step.id} may take {worst}, longer than the whole maintenance window ({window}, {length}), and "
        "cannot go on where it was stopped: it is begun at the start of a window, and given up at its end if it is "
        "not done. Give the spec a longer window, or run it with --ignore-window.",
    )
