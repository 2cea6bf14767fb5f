"""What the application's sessions waited for, sampled: whether a stall was somebody's lock, or the disk."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import NamedTuple

import psycopg

from tasks.application.latency import Timing

INTERVAL = 0.01
"""Seconds between two looks: how long a wait was is known to within two of them."""
UNSEEN = "no wait seen"
_LOOK = b"""
SELECT pid, wait_event_type || ':' || wait_event FROM pg_stat_activity
WHERE application_name LIKE 'drink-water:%' AND state = 'active' AND wait_event IS NOT NULL
"""


class Wait(NamedTuple):
    """A session seen waiting: in the look of this number, at this time (seconds), for e.g. ``IO:WALSync``."""

    look: int
    at: float
    pid: int
    event: str


class Waits:
    """Looks at the application's sessions while a block of code runs."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="benchmark waits", daemon=True)
        self.seen: list[Wait] = []

    def __enter__(self) -> Waits:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        with psycopg.connect(self._conninfo, autocommit=True, application_name="benchmark:waits") as connection:
            look = 0
            while not self._end.wait(INTERVAL):
                look += 1
                now = time.monotonic()
                self.seen += [Wait(look, now, pid, event) for pid, event in connection.execute(_LOOK).fetchall()]


def reasons(stalls: Iterable[Timing], seen: Sequence[Wait]) -> dict[str, list[float]]:
    """Return the milliseconds of the stalls by what was waited for most at the time, the longest stall first."""
    found: dict[str, list[float]] = {}
    for stall in sorted(stalls, key=lambda timing: -timing.milliseconds):
        end = stall.sent + stall.milliseconds / 1000
        events = Counter(wait.event for wait in seen if stall.sent <= wait.at < end)
        event = events.most_common(1)[0][0] if events else UNSEEN
        found.setdefault(event, []).append(stall.milliseconds)
    return found


def longest_for_a_lock(seen: Sequence[Wait]) -> float:
    """Return for how many milliseconds, at the least, a session was seen waiting for a lock without a break."""
    longest = 0.0
    since: dict[int, Wait] = {}
    last: dict[int, Wait] = {}
    for wait in seen:
        if not wait.event.startswith("Lock:"):
            last.pop(wait.pid, None)
            continue
        before = last.get(wait.pid)
        if before is None or before.look + 1 != wait.look:
            since[wait.pid] = wait
        last[wait.pid] = wait
        longest = max(longest, (wait.at - since[wait.pid].at + INTERVAL) * 1000)
    return longest
