"""Flyway's versions: what is equal, what comes first, and how one is written into the history table."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(frozen=True, order=True, slots=True)
class Version:
    """1, 1.0 and 001 are the same version, 1.10 comes after 1.2; only ``text`` tells them apart."""

    parts: tuple[int, ...]
    text: str = field(compare=False)
    """What Flyway stores: as it was written, with dots for underscores, so ``V1_001`` is ``1.001``."""

    def __str__(self) -> str:
        return self.text


def parse_version(written: str) -> Version | None:
    """Return the version of a file's name or of a row of the history; None for what Flyway does not take for one."""
    text = written.replace("_", ".")
    parts = re.split(r"\.(?=[0-9])", text)
    if not all(re.fullmatch(r"[+-]?\d+", part) for part in parts):
        return None
    numbers = [int(part) for part in parts]
    while len(numbers) > 1 and numbers[-1] == 0:
        del numbers[-1]
    return Version(tuple(numbers), text)
