"""How far a long step is, with rate and expected end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tasks.planning.wording import duration

REPORT_SECONDS = 1.0


@dataclass(frozen=True)
class Progress:
    """``rows_total`` is an estimate; rate and ETA are of this process's run, unknown in its first moments."""

    step: str
    title: str
    table: str
    rows_done: int
    rows_total: int
    rows_per_second: float
    eta_seconds: float | None
    throttled: str = ""
    """Why the step waits now; empty when it does not."""


Report = Callable[[Progress], None]


class Meter:
    """Counts rows and reports at most once a second; a resumed step goes on from ``rows_done``."""

    def __init__(self, report: Report, *, step: str, title: str, table: str, rows_done: int, rows_total: int) -> None:
        self._report = report
        self._names = (step, title, table)
        self._first = self._done = rows_done
        self._total = rows_total
        self._began = time.monotonic()
        self._reported = self._began

    def add(self, rows: int) -> None:
        self._done += rows
        if time.monotonic() - self._reported >= REPORT_SECONDS:
            self.tell()

    def rest(self) -> str:
        """Return in a sentence how far it is, with what is left at the rate of this process's run so far."""
        elapsed = time.monotonic() - self._began
        rate = (self._done - self._first) / elapsed if elapsed > 0 else 0.0
        left = self._total - self._done
        if left <= 0:
            return f"{self._done:,} rows are done. "
        rest = f"; the rest takes about {duration(left / rate)}" if rate > 0 else ""
        return f"{self._done:,} of {self._total:,} rows are done{rest}. "

    def tell(self, throttled: str = "") -> None:
        """Report now, with the reason where the step is held back."""
        self._reported = time.monotonic()
        elapsed = self._reported - self._began
        rate = (self._done - self._first) / elapsed if elapsed > 0 else 0.0
        total = max(self._total, self._done)
        eta = (total - self._done) / rate if rate > 0 else None
        self._report(Progress(*self._names, self._done, total, rate, eta, throttled))
