"""What a rehearsal of a whole migration showed: on a clone with made-up rows, there, back, and to the end. Pure.

Made by `tasks.database.rehearsal`. Seconds are the clone's; what they come to on the live tables is `live_seconds`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tasks.planning.names import TableName
from tasks.planning.plan import LockMode, Part
from tasks.planning.wording import counted, duration

FEW_ROWS, MANY_TIMES = 1_000, 10
"""Of fewer rows than these, where more were wanted, the time is that of a statement on next to nothing, and no row's:
so many times as many take another one."""


class RehearsedTable(Part):
    """A table of the clone: ``rows`` that were made up for the ``live_rows``; ``why`` there are none, or not enough."""

    table: TableName
    live_rows: int
    rows: int
    why: str = ""

    @property
    def factor(self) -> float | None:
        """How many times as many rows the live table has; 1 where it has fewer, None where too few were made up."""
        few = self.rows < FEW_ROWS and self.live_rows > MANY_TIMES * self.rows
        if self.why and (few or not self.rows):
            return None
        return max(1.0, self.live_rows / self.rows) if self.rows else 1.0


class HeldLock(Part):
    """A lock that keeps writes waiting, and for how long it was seen held at the most."""

    table: TableName
    mode: LockMode
    seconds: float


class RehearsedStep(Part):
    """A step that was carried out; ``factor`` is what its time is multiplied by for the live table's rows.

    It is None where the table has next to no made-up rows: how long the step takes on the live ones is not known.
    """

    phase: str
    step: str
    title: str
    seconds: float
    factor: float | None = 1.0
    locks: tuple[HeldLock, ...] = ()


class RehearsedPhase(Part):
    """A phase. ``gates`` are the seconds of its checks; ``undo`` those of taking it back, None where nothing does.

    The factors are those of the rows that each works on, on the live tables; None where one of them is not known.
    """

    phase: str
    steps: tuple[RehearsedStep, ...]
    gates: float = 0.0
    gates_factor: float | None = 1.0
    locks_seen: bool = True
    """False where the session that looked for locks was lost: there were more."""
    undo: float | None = None
    undo_factor: float | None = 1.0


class Rehearsal(Part):
    """One rehearsal. ``ratio`` is how much faster the live server computes than the clone's, None where not known.

    ``failure`` is what stopped it, in words, and empty when everything was carried out and taken back.
    """

    server: str
    tables: tuple[RehearsedTable, ...]
    phases: tuple[RehearsedPhase, ...] = ()
    seconds: float = 0.0
    ratio: float | None = None
    rolled_back: bool = False
    """Whether every phase before the point of no return was taken back, and every row was then as before."""
    failure: str = ""

    def live_seconds(self, seconds: float, factor: float | None) -> float | None:
        """Return what was measured here, on the live server and its rows; None where the factor is not known."""
        return None if factor is None else seconds * factor / (self.ratio or 1.0)

    @property
    def locks(self) -> tuple[HeldLock, ...]:
        """The locks in writers' way, the longest of each table and kind."""
        return tuple(longest(lock for phase in self.phases for step in phase.steps for lock in step.locks))


def longest(locks: Iterable[HeldLock]) -> Iterator[HeldLock]:
    """Yield of each table and kind the lock that was held the longest."""
    found: dict[tuple[TableName, LockMode], HeldLock] = {}
    for lock in locks:
        known = found.get((lock.table, lock.mode))
        if known is None or known.seconds < lock.seconds:
            found[lock.table, lock.mode] = lock
    yield from (found[key] for key in sorted(found))


def table_rows(rehearsal: Rehearsal) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row of text for each table: its name, rows here, rows live, and what there is to say."""
    for table in rehearsal.tables:
        yield str(table.table), f"{table.rows:,}", f"{table.live_rows:,}", table.why


def phase_rows(rehearsal: Rehearsal) -> Iterator[tuple[str, ...]]:
    """Yield a row of text for each phase: steps, gates, undo; each as measured and, extrapolated, on the live rows."""
    for phase in rehearsal.phases:
        steps = sum(step.seconds for step in phase.steps)
        each = [rehearsal.live_seconds(step.seconds, step.factor) for step in phase.steps]
        live = None if None in each else sum(seconds for seconds in each if seconds is not None)
        gates = rehearsal.live_seconds(phase.gates, phase.gates_factor)
        back = ("not taken back", "")
        if phase.undo is not None:
            back = duration(phase.undo), _told(rehearsal.live_seconds(phase.undo, phase.undo_factor))
        yield (phase.phase, duration(steps), _told(live), duration(phase.gates), _told(gates), *back)


def _told(seconds: float | None) -> str:
    return "not known" if seconds is None else duration(seconds)


def greatest(factors: Iterable[float | None]) -> float | None:
    """Return the greatest factor, 1 of none; None where one is not known."""
    known = tuple(factors)
    return None if None in known else max((factor for factor in known if factor is not None), default=1.0)


def told(rehearsal: Rehearsal) -> str:
    """Return in a sentence how it went."""
    rows = sum(table.rows for table in rehearsal.tables)
    where = f"{rows:,} made-up rows in {counted(len(rehearsal.tables), 'table')} of a clone, {rehearsal.server}"
    if rehearsal.failure:
        return f"It failed on {where}: {rehearsal.failure}"
    back = "taken back, every row as before; then " if rehearsal.rolled_back else ""
    return f"Carried out on {where}: {back}to the end, with all gates, in {rehearsal.seconds:.0f} s."


def limits_of(rehearsal: Rehearsal) -> str:
    """Return in words how the extrapolation was made, and what it leaves out."""
    compared = (
        f"this server computes {rehearsal.ratio:.1f} times as fast as that one"
        if rehearsal.ratio is not None
        else "how fast this server computes was not known"
    )
    return (
        f"Times on the live rows are those of the clone, times so many as there are more rows ({compared}). The clone "
        "waits for no disk and no application writes beside: count on more where either decides. "
        f"{_looked_for(rehearsal)}; on an idle clone they are granted at once. No row of yours was copied."
    )


def _looked_for(rehearsal: Rehearsal) -> str:
    lost = [phase.phase for phase in rehearsal.phases if not phase.locks_seen]
    if lost:
        return f"Locks of {', '.join(lost)} are missing, as the session that looked for them was lost"
    return "Locks were looked for every two milliseconds"
