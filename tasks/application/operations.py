"""What a client does next: one operation, its statements, and the state that it must leave behind.

An operation is a pure function of the client's seeded randomness and of the record; it knows the outcome before the
server is asked. None means that the chosen users do not fit (deleted, or without intakes) and another is chosen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any, TypeAlias, assert_never

from tasks.application.record import IntakeKey, Row, User, Users, digest
from tasks.application.statements import TEXTS, Command
from tasks.application.volumes import NewVolume, OldVolume, ShapeName, Volume, written

UNIQUE_VIOLATION = "23505"
CHECK_VIOLATION = "23514"

_FIRST_MOMENT = datetime(2025, 1, 1)  # noqa: DTZ001 - the old shape stores UTC without saying so
_SECONDS = 2 * 365 * 86_400
# Numbers that no sequence of a test database reaches: a renumbered row jumps ahead of a backfill's cursor or,
# negative, behind it.
_fresh_numbers = itertools.count(1_000_000_000)


@dataclass(frozen=True)
class Situation:
    """What a client chooses from: two users that it holds, and their state."""

    shape: ShapeName
    random: Random
    first: int
    first_user: User | None
    second: int
    second_user: User | None

    def command(self, name: str, **values: Any) -> Command:
        return Command(name, TEXTS[self.shape][name], values)

    def moment(self) -> datetime:
        """A time of an intake, UTC and naive, with microseconds."""
        return _FIRST_MOMENT + timedelta(
            seconds=self.random.randrange(_SECONDS), microseconds=self.random.randrange(1_000_000)
        )

    def stored(self, at: datetime) -> datetime:
        """The time as this shape's column takes it."""
        return at if self.shape == "old" else at.replace(tzinfo=UTC)

    def volume(self) -> Volume:
        """A volume of this shape, often one of those that are hard to convert."""
        if self.shape == "old":
            return self.random.choice(
                (OldVolume(8, "OZ"), OldVolume(1, "ML"), OldVolume(self.random.randrange(1, 2000), "ML"))
            )
        odd = Decimal(self.random.randrange(30, 200_000)) / 100
        return NewVolume(self.random.choice((Decimal("250.55"), Decimal("0.30"), odd)))


@dataclass(frozen=True)
class Work:
    """Statements to send, and what they must leave behind.

    ``refused``: the SQLSTATE with which the server must refuse the last statement. ``abandoned``: they run in a
    transaction that is rolled back. Several statements always share one transaction.
    """

    name: str
    commands: tuple[Command, ...]
    after: Users = field(default_factory=dict)
    refused: str | None = None
    abandoned: bool = False


Operation: TypeAlias = Callable[[Situation], Work | None]


def values_of(volume: Volume) -> dict[str, int | str | Decimal]:
    """Return the statement parameters of a volume in its own shape."""
    match volume:
        case OldVolume(amount, unit):
            return {"amount": amount, "unit": unit}
        case NewVolume(millilitres):
            return {"millilitres": millilitres}
    assert_never(volume)


def _with(user: User, at: datetime, row: Row | None, *, instead_of: datetime | None = None) -> User:
    intakes = {moment: kept for moment, kept in user.intakes.items() if moment != instead_of}
    if row is None:
        intakes.pop(at, None)
    else:
        intakes[at] = row
    return user._replace(intakes=intakes)


def _some_intake(situation: Situation) -> tuple[User, datetime, Row] | None:
    user = situation.first_user
    if user is None or not user.intakes:
        return None
    at = situation.random.choice(list(user.intakes))
    return user, at, user.intakes[at]


def _insertion(situation: Situation, at: datetime, volume: Volume) -> Command:
    command = situation.command("insert", user=situation.first, at=situation.stored(at), **values_of(volume))
    return command._replace(gives=IntakeKey(situation.first, at))


def insert(situation: Situation) -> Work | None:
    user, at = situation.first_user, situation.moment()
    if user is None or at in user.intakes:
        return None
    volume = situation.volume()
    after = {situation.first: _with(user, at, Row(None, volume))}
    return Work("insert", (_insertion(situation, at, volume),), after)


def upsert(situation: Situation) -> Work | None:
    found = _some_intake(situation)
    if found is None:
        return None
    user, at, row = found
    wanted = situation.volume()
    command = situation.command("upsert", user=situation.first, at=situation.stored(at), **values_of(wanted))
    changed = row._replace(volume=written(row.volume, wanted))
    return Work("upsert", (command,), {situation.first: _with(user, at, changed)})


def set_volume(situation: Situation) -> Work | None:
    found = _some_intake(situation)
    if found is None:
        return None
    user, at, row = found
    wanted = situation.volume()
    command = situation.command("set volume", id=row.id, **values_of(wanted))
    changed = row._replace(volume=written(row.volume, wanted))
    return Work("set volume", (command,), {situation.first: _with(user, at, changed)})


def set_time(situation: Situation) -> Work | None:
    found, later = _some_intake(situation), situation.moment()
    if found is None or later in found[0].intakes:
        return None
    user, at, row = found
    command = situation.command("set time", id=row.id, at=situation.stored(later))
    return Work("set time", (command,), {situation.first: _with(user, later, row, instead_of=at)})


def move(situation: Situation) -> Work | None:
    found, receiver = _some_intake(situation), situation.second_user
    if found is None or receiver is None or situation.first == situation.second or found[1] in receiver.intakes:
        return None
    user, at, row = found
    command = situation.command("move", id=row.id, user=situation.second)
    after = {situation.first: _with(user, at, None), situation.second: _with(receiver, at, row)}
    return Work("move", (command,), after)


def renumber(situation: Situation) -> Work | None:
    found = _some_intake(situation)
    if found is None:
        return None
    user, at, row = found
    number = next(_fresh_numbers) * situation.random.choice((1, -1))
    command = situation.command("renumber", id=row.id, number=number)
    return Work("renumber", (command,), {situation.first: _with(user, at, row._replace(id=number))})


def delete(situation: Situation) -> Work | None:
    found = _some_intake(situation)
    if found is None:
        return None
    user, at, row = found
    return Work("delete", (situation.command("delete", id=row.id),), {situation.first: _with(user, at, None)})


def several(situation: Situation) -> Work | None:
    """Insert an intake and change another one in one transaction, which is rolled back one time in three."""
    found, at = _some_intake(situation), situation.moment()
    if found is None or at in found[0].intakes:
        return None
    user, other, row = found
    volume, changed = situation.volume(), situation.volume()
    abandoned = situation.random.random() < 1 / 3
    commands = (
        _insertion(situation, at, volume),
        situation.command("set volume", id=row.id, **values_of(changed)),
    )
    after = _with(_with(user, at, Row(None, volume)), other, row._replace(volume=written(row.volume, changed)))
    return Work("several", commands, {} if abandoned else {situation.first: after}, abandoned=abandoned)


def duplicate(situation: Situation) -> Work | None:
    found = _some_intake(situation)
    if found is None:
        return None
    command = _insertion(situation, found[1], situation.volume())
    return Work("duplicate", (command,), refused=UNIQUE_VIOLATION)


def invalid_volume(situation: Situation) -> Work | None:
    if situation.first_user is None:
        return None
    volume = OldVolume(-5, "ML") if situation.shape == "old" else NewVolume(Decimal(-5))
    command = _insertion(situation, situation.moment(), volume)
    return Work("invalid volume", (command,), refused=CHECK_VIOLATION)


def create_user(situation: Situation) -> Work | None:
    number = next(_fresh_numbers)
    email = f"person-{number}@example.org"
    command = situation.command("create user", user=number, email=email)
    return Work("create user", (command,), {number: User(digest(email), None, {})})


def set_email(situation: Situation) -> Work | None:
    if situation.first_user is None:
        return None
    email = f"person-{next(_fresh_numbers)}@example.org"
    command = situation.command("set email", user=situation.first, email=email)
    return Work("set email", (command,), {situation.first: situation.first_user._replace(email=digest(email))})


def delete_user(situation: Situation) -> Work | None:
    if situation.first_user is None:
        return None
    return Work("delete user", (situation.command("delete user", user=situation.first),), {situation.first: None})


def set_notification(situation: Situation) -> Work | None:
    user = situation.first_user
    if user is None:
        return None
    wanted = user.notification is False  # never set means the default, which is true
    command = situation.command("set notification", user=situation.first, notification=wanted)
    return Work("set notification", (command,), {situation.first: user._replace(notification=wanted)})


_BOTH: dict[Operation, int] = {
    insert: 20, upsert: 8, set_volume: 20, set_time: 6, move: 4, renumber: 4, delete: 4, several: 6,
    duplicate: 3, invalid_volume: 2, create_user: 1, set_email: 3, delete_user: 1,
}  # fmt: skip
WRITES: dict[ShapeName, dict[Operation, int]] = {"old": _BOTH, "new": _BOTH | {set_notification: 6}}
"""The operations of a shape with their weights."""
READ_SHARE = 0.35
"""How much of a client's work is reading; every reading is compared with the record at once."""
