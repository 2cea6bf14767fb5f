"""Named SQL statements: one file of ``sql/`` holds several, each under a line ``-- name: …``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@cache
def queries(file: str) -> Mapping[str, bytes]:
    """Return the statements of ``sql/<file>.sql`` by name, as bytes for ``execute``; each file is read once."""
    text = (files("tasks.database") / "sql" / f"{file}.sql").read_text()
    _, *parts = _NAME.split(text)
    return MappingProxyType({name: body.strip().encode() for name, body in zip(parts[::2], parts[1::2], strict=True)})
