"""How long work on a table takes at its size, roughly: between what memory gives and what a busy disk does."""

from __future__ import annotations

from typing import Literal

from tasks.planning.plan import Forecast

Work = Literal["rewrite", "index build", "scan"]

_BYTES_A_SECOND: dict[Work, float] = {"rewrite": 65e6, "index build": 100e6, "scan": 500e6}
"""Of the table. Measured: 1,500,000 rows, 190 MB, from memory, two cores (48-80, 96-135, 380-670 MB/s)."""
_WORST = 5
"""How much longer it takes where the table comes from a disk that the application is using too."""


def duration(work: Work, size: int) -> Forecast:
    """Return the seconds that ``work`` takes on a table of ``size`` bytes."""
    best = size / _BYTES_A_SECOND[work]
    return Forecast(best=best, worst=best * _WORST)


def in_words(seconds: float) -> str:
    """Return a duration for people, rounded.

    >>> in_words(0.2), in_words(42), in_words(400), in_words(9000)
    ('below 1 s', '42 s', '7 min', '2.5 h')
    """
    if seconds < 1:
        return "below 1 s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def range_in_words(forecast: Forecast) -> str:
    """Return both ends.

    >>> range_in_words(Forecast(best=0.1, worst=0.5)), range_in_words(Forecast(best=30, worst=150))
    ('below 1 s', '30 s to 2 min')
    """
    best, worst = in_words(forecast.best), in_words(forecast.worst)
    return best if best == worst else f"{best} to {worst}"


def size_in_words(size: int) -> str:
    """Return a size for people.

    >>> size_in_words(8192), size_in_words(190_000_000), size_in_words(5_100_000_000)
    ('below 1 MB', '190 MB', '5.1 GB')
    """
    if size < 1_000_000:
        return "below 1 MB"
    return f"{size / 1e6:.0f} MB" if size < 1_000_000_000 else f"{size / 1e9:.1f} GB"
