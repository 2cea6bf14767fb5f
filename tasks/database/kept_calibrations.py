"""Calibrations that planning has made, kept on this machine for who has no seconds to make one: `lockstep lint`.

A file a database in the user's data folder: names of tables and speeds, nothing of a row. What cannot be kept or read
is as if nobody had calibrated: the durations are rougher, and said to be.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import platformdirs
import psycopg
from psycopg.rows import TupleRow
from pydantic import TypeAdapter, ValidationError

from tasks.database.failures import connection_lost
from tasks.database.queries import queries
from tasks.planning.names import TableName
from tasks.planning.paces import Calibration

Connection = psycopg.Connection[TupleRow]

LONGEST = timedelta(days=30)
"""Machines and tables change: an older calibration tells of others."""
MOST_WIDER = 2.0
"""Rows that are now so many times as wide, or as narrow, are not those that were calibrated."""

_SQL = queries("calibration")
_FILE = TypeAdapter(tuple[Calibration, ...])


def keep(live: Connection, calibrations: Sequence[Calibration]) -> None:
    """Keep calibrations for a database, instead of older ones of the same tables."""
    if not calibrations:
        return
    file, now = _file_of(live), datetime.now(UTC)
    made = {found.table for found in calibrations}
    others = (found for found in _read(file) if found.table not in made)
    content = _FILE.dump_json((*others, *(found.model_copy(update={"made_at": now}) for found in calibrations)))
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        # Under a name of its own first: who reads meanwhile finds the old one or the new one whole.
        beside = file.with_suffix(f".{os.getpid()}")
        beside.touch(mode=0o600)
        beside.write_bytes(content)
        beside.replace(file)
        _forget_old(file.parent, now)


def kept(live: Connection, widths: Mapping[TableName, int]) -> tuple[Calibration, ...]:
    """Return the calibrations of a database that still tell of it; ``widths`` are the bytes of the tables' rows now."""
    return tuple(found for found in _read(_file_of(live)) if _is_as_wide(found, widths.get(found.table)))


def _is_as_wide(found: Calibration, width: int | None) -> bool:
    return width is not None and 1 / MOST_WIDER <= width / found.row_bytes <= MOST_WIDER


def _read(file: Path) -> tuple[Calibration, ...]:
    try:
        found = _FILE.validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return ()
    oldest = datetime.now(UTC) - LONGEST
    return tuple(one for one in found if one.made_at is not None and one.made_at > oldest)


def _file_of(live: Connection) -> Path:
    """One file a database: by the server's own number, and by where it is, since a copy has the same number."""
    number = ""
    try:
        with live.transaction():
            row = live.execute(_SQL["identity"]).fetchone()
            number = row[0] if row is not None else ""
    except psycopg.Error as error:
        # The role may not ask, or the server has no such function (Aurora's says so by 0A000).
        if connection_lost(error):
            raise
    place = f"{number} {live.info.host} {live.info.port} {live.info.dbname}"
    name = hashlib.sha256(place.encode()).hexdigest()[:32]
    return platformdirs.user_data_path("lockstep") / "calibrations" / f"{name}.json"


def _forget_old(folder: Path, now: datetime) -> None:
    for file in folder.iterdir():
        if file.stat().st_mtime < (now - LONGEST).timestamp():
            file.unlink(missing_ok=True)
