"""How long the application's statements took, as a user of it would have felt."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Latency(NamedTuple):
    """Milliseconds from sending a statement to its answer, over ``statements`` of them."""

    statements: int
    median: float
    p99: float
    worst: float
    worst_statement: str
    """Name of the statement that waited longest."""


class Timing(NamedTuple):
    """One statement: its name, when it was sent (``time.monotonic`` seconds) and how long it took (milliseconds)."""

    statement: str
    sent: float
    milliseconds: float


def summarise(timings: Iterable[Timing]) -> Latency:
    """Return the distribution; all zero when there was no statement."""
    ordered = sorted(timings, key=lambda timing: timing.milliseconds)
    if not ordered:
        return Latency(0, 0.0, 0.0, 0.0, "")
    worst = ordered[-1]
    return Latency(
        statements=len(ordered),
        median=ordered[len(ordered) // 2].milliseconds,
        p99=ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)].milliseconds,
        worst=worst.milliseconds,
        worst_statement=worst.statement,
    )
