"""Maintenance windows relative to the server's present moment, for tests that cannot wait for a weekend."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger
from tasks.planning.windows import DAYS, Window


def now(target: Target) -> datetime:
    with connect(target, role="test") as connection:
        return Ledger(connection).now()


def from_to(opens: datetime, closes: datetime) -> Window:
    """A window of every day, exact to the second."""
    start, end = (f"{moment.astimezone(UTC):%H:%M:%S}" for moment in (opens, closes))
    return Window(days=DAYS, start=start, end=end)


def open_for(target: Target, seconds: float) -> Window:
    """A window that has been open for hours and closes so many seconds from now, to the full second above."""
    closes = now(target) + timedelta(seconds=seconds + 1)
    return from_to(closes - timedelta(hours=6), closes)


def shut(target: Target) -> Window:
    """A window that opens in two hours."""
    moment = now(target)
    return from_to(moment + timedelta(hours=2), moment + timedelta(hours=4))
