"""Looks, every few milliseconds and from a session of its own, which locks keep an application's writes waiting."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import psycopg
from psycopg.rows import TupleRow

from tasks.database.observation import MODES
from tasks.database.queries import queries
from tasks.planning.names import TableName
from tasks.planning.plan import LOCK_ORDER, LockMode

INTERVAL = 0.002
_SQL = queries("rehearsal")


@dataclass(frozen=True)
class Seen:
    """A session's strongest lock on a table: from the last look without one to the first one after. Held no longer."""

    table: TableName
    mode: LockMode
    since: datetime
    until: datetime

    @property
    def seconds(self) -> float:
        return (self.until - self.since).total_seconds()


@dataclass
class LockLog:
    """What `watched` sees: ``seen`` is all of it at the block's end if it is ``whole``."""

    session: psycopg.Connection[TupleRow]
    seen: list[Seen] = field(default_factory=list)
    whole: bool = False
    """False where the session was lost before the end."""

    def watch(self, end: threading.Event) -> None:
        """Look until ``end`` is set, and once more."""
        held: dict[tuple[int, TableName], tuple[datetime, LockMode]] = {}
        # What is not seen any more leaves the log incomplete, and the rehearsal as it is.
        with contextlib.suppress(psycopg.Error):
            before = self._now()
            while True:
                over = end.wait(INTERVAL)
                now, found = self._look()
                for key in [key for key in held if key not in found]:
                    since, mode = held.pop(key)
                    self.seen.append(Seen(key[1], mode, since, now))
                for key, mode in found.items():
                    since, known = held.get(key, (before, mode))
                    held[key] = since, max(mode, known, key=LOCK_ORDER.index)
                if over:
                    break
                before = now
            self.seen.extend(Seen(table, mode, since, now) for (_, table), (since, mode) in held.items())
            self.whole = True

    def _look(self) -> tuple[datetime, dict[tuple[int, TableName], LockMode]]:
        """Return the server's time, and the strongest lock of each session on each table."""
        rows = self.session.execute(_SQL["held"]).fetchall()
        found: dict[tuple[int, TableName], LockMode] = {}
        for _, pid, schema, name, printed in rows:
            key, mode = (pid, TableName(schema, name)), MODES[printed]
            found[key] = max(mode, found.get(key, mode), key=LOCK_ORDER.index)
        return (rows[0][0] if rows else self._now()), found

    def _now(self) -> datetime:
        ((now,),) = self.session.execute(_SQL["now"]).fetchall()
        found: datetime = now
        return found

    def by_span(self, spans: Mapping[str, tuple[datetime, datetime]]) -> Mapping[str, Sequence[Seen]]:
        """Return the locks by the span of the server's time, of those that are named, in which each was held most."""
        found: dict[str, list[Seen]] = {name: [] for name in spans}
        for item in self.seen:
            shared = {
                name: (min(item.until, ended) - max(item.since, began)).total_seconds()
                for name, (began, ended) in spans.items()
            }
            most = max(shared, key=shared.__getitem__, default=None)
            if most is not None and shared[most] > 0:
                found[most].append(item)
        return found


@contextmanager
def watched(session: psycopg.Connection[TupleRow]) -> Iterator[LockLog]:
    """Look for locks for the length of a block, by a session that nobody else uses meanwhile."""
    log, end = LockLog(session), threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="lockstep lock log") as pool:
        watching = pool.submit(log.watch, end)
        try:
            yield log
        finally:
            end.set()
    watching.result()
