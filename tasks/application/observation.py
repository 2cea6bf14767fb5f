"""What the tables show through one shape, and whether that is what the record expects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import TupleRow

from tasks.application.record import Row, User, digest
from tasks.application.statements import TEXTS
from tasks.application.volumes import NewVolume, OldVolume, ShapeName, Volume, as_new, as_old

_COLUMNS: dict[ShapeName, set[str]] = {
    "old": {"date_time_utc", "volume", "volume_unit"},
    "new": {"recorded_at", "volume_ml"},
}


class Discrepancy(NamedTuple):
    """Something that is not as expected, by key only: no value of a row is kept."""

    shape: ShapeName
    user: int
    at: datetime | None
    """The intake's time, or None when the user's own row is meant."""
    what: str


def intake_of(shape: ShapeName, values: tuple[Any, ...]) -> tuple[datetime, Row]:
    """Return ``(time in UTC, row)`` from the columns ``id, time, volume …`` of a shape."""
    if shape == "old":
        number, at, amount, unit = values
        return at, Row(number, OldVolume(amount, unit))
    number, recorded_at, millilitres = values
    return recorded_at.astimezone(UTC).replace(tzinfo=None), Row(number, NewVolume(millilitres))


def user_of(values: tuple[Any, ...] | None, intakes: Mapping[datetime, Row]) -> User | None:
    """Return the user from the columns ``email, notification_enabled``; None when there is none."""
    return None if values is None else User(digest(values[0]), values[1], intakes)


def shown(volume: Volume, shape: ShapeName) -> Volume:
    """Return the volume as a shape must show it."""
    return as_old(volume) if shape == "old" else as_new(volume)


def differences(shape: ShapeName, number: int, seen: User | None, expected: User | None) -> Iterator[Discrepancy]:
    """Yield what differs between a user as seen through ``shape`` and as expected."""
    if seen is None or expected is None:
        if seen is not expected:
            yield Discrepancy(shape, number, None, "user missing" if seen is None else "user should be gone")
    else:
        if seen.email != expected.email:
            yield Discrepancy(shape, number, None, "email differs")
        if shape == "new" and seen.notification != (expected.notification is not False):
            yield Discrepancy(shape, number, None, "notification_enabled differs")
    yield from _intake_differences(shape, number, seen.intakes if seen else {}, expected.intakes if expected else {})


def _intake_differences(
    shape: ShapeName, number: int, seen: Mapping[datetime, Row], expected: Mapping[datetime, Row]
) -> Iterator[Discrepancy]:
    for at in seen.keys() | expected.keys():
        there, wanted = seen.get(at), expected.get(at)
        if there is None or wanted is None:
            yield Discrepancy(shape, number, at, "intake missing" if there is None else "intake should be gone")
        elif wanted.id is not None and there.id != wanted.id:
            yield Discrepancy(shape, number, at, "id differs")
        elif there.volume != shown(wanted.volume, shape):
            yield Discrepancy(shape, number, at, "volume differs")


def read_users(
    connection: psycopg.Connection[TupleRow], shape: ShapeName, users: Iterable[int]
) -> dict[int, User | None]:
    """Return some users with their intakes as a shape shows them."""
    seen: dict[int, User | None] = {}
    for number in users:
        own = connection.execute(TEXTS[shape]["read user"].encode(), {"user": number}, binary=True).fetchone()
        rows = connection.execute(TEXTS[shape]["read"].encode(), {"user": number}, binary=True).fetchall()
        seen[number] = user_of(own, dict(intake_of(shape, row) for row in rows))
    return seen


def read_all(connection: psycopg.Connection[TupleRow], shape: ShapeName) -> dict[int, User]:
    """Return every user with all intakes as a shape shows them, in one snapshot."""
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    try:
        own = connection.execute(TEXTS[shape]["read all users"].encode(), binary=True).fetchall()
        rows = connection.execute(TEXTS[shape]["read all"].encode(), binary=True).fetchall()
    finally:
        connection.execute("ROLLBACK")
    intakes: dict[int, dict[datetime, Row]] = {number: {} for number, *_ in own}
    for user, *values in rows:
        at, row = intake_of(shape, tuple(values))
        intakes[user][at] = row
    return {number: User(digest(email), notification, intakes[number]) for number, email, notification in own}


def shapes(connection: psycopg.Connection[TupleRow]) -> tuple[ShapeName, ...]:
    """Return the shapes that the live tables can be read through."""
    found = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'water_intake'::regclass AND NOT attisdropped"
    ).fetchall()
    columns = {name for (name,) in found}
    return tuple(shape for shape, needed in _COLUMNS.items() if needed <= columns)
