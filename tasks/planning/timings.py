"""The spec's own queries, timed before the migration and in it: what was seen, and which became slower. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tasks.planning.plan import Part

SLOWER_BY = 1.5
"""Times as long: less is what caches and neighbours do from one look to the next."""
SLOWER_MS = 5.0
"""And so many milliseconds longer: half a millisecond more is nobody's concern."""

When = Literal["before", "after switch", "at the end"]


class Timing(Part):
    """One query as it was seen: the median and the longest of some runs in milliseconds, and how it was carried out.

    ``nodes`` are the plan's nodes with the tables and indexes that they read. ``error`` says why there is none.
    """

    query: str
    median_ms: float | None = None
    longest_ms: float | None = None
    nodes: tuple[str, ...] = ()
    error: str | None = None


class Timings(Part):
    """All queries of a spec, in its order, at one moment of the migration."""

    when: When
    timings: tuple[Timing, ...]


def regressions(before: Timings, after: Timings) -> tuple[str, ...]:
    """Return a sentence for each query that is slower than before by much, or does not run any more."""
    return tuple(
        sentence
        for old, new in zip(before.timings, after.timings, strict=True)
        if old.query == new.query and (sentence := _regression(old, new)) is not None
    )


def _regression(old: Timing, new: Timing) -> str | None:
    if old.median_ms is None:
        return None
    if new.median_ms is None:
        return f"{called(new)} does not run any more: {new.error}. Before: {old.median_ms:.1f} ms."
    if new.median_ms <= max(old.median_ms * SLOWER_BY, old.median_ms + SLOWER_MS):
        return None
    way = "" if old.nodes == new.nodes else f" It was {_nodes(old)} and is {_nodes(new)}."
    return f"{called(new)} takes {new.median_ms:.1f} ms instead of {old.median_ms:.1f} ms.{way}"


def rows(taken: Sequence[Timings]) -> tuple[tuple[str, ...], ...]:
    """Return a row a query: its text, and what it took at each moment."""
    if not taken:
        return ()
    return tuple(
        (called(first), *(_seen(moment.timings[number]) for moment in taken))
        for number, first in enumerate(taken[0].timings)
    )


def called(timing: Timing) -> str:
    """Return a query on one line."""
    return " ".join(timing.query.split()).rstrip(";")


def _seen(timing: Timing) -> str:
    if timing.median_ms is None:
        return timing.error or "not seen"
    return f"{timing.median_ms:.1f} ms (longest {timing.longest_ms:.1f}): {_nodes(timing)}"


def _nodes(timing: Timing) -> str:
    return ", ".join(timing.nodes) or "nothing to read"
