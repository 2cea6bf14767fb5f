"""How durations, sizes and numbers are written for people."""

from __future__ import annotations

from tasks.planning.plan import Forecast


def duration(seconds: float) -> str:
    """Return a duration as people write it: ``under 0.1 s``, ``0.2 s``, ``45 s``, ``12 min``, ``3.5 h``, ``7 days``."""
    for unit, size in (("day", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size or (seconds and seconds % size == 0):
            return counted(seconds / size, unit) if unit == "day" else f"{seconds / size:.3g} {unit}"
    if seconds < 0.1:
        return "under 0.1 s"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def counted(number: float, noun: str) -> str:
    """Return a number with its noun: ``1 step``, ``2 steps``."""
    text = f"{number:,}" if isinstance(number, int) else f"{number:.3g}"
    return f"{text} {noun}{'' if number == 1 else 's'}"


def forecast(expected: Forecast) -> str:
    """Return ``best to worst``, once when they read the same."""
    best, worst = duration(expected.best), duration(expected.worst)
    return best if best == worst else f"{best} to {worst}"


def size(count: int) -> str:
    """Return bytes as people write them."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} bytes"


def timeout(limit: int) -> str:
    """Return a timeout given in milliseconds, exactly: ``50 ms``, ``5 s``, ``21,600 s``; 0 is none."""
    if limit == 0:
        return "none"
    return f"{limit:,} ms" if limit < 1000 or limit % 1000 else f"{limit // 1000:,} s"
