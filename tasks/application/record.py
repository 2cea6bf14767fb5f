"""The application's own record: what every row must be, from what was read at the start and acknowledged since."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from threading import Lock
from typing import NamedTuple, TypeAlias

from tasks.application.volumes import Volume

STRIPES = 256
"""Locks over the users: two clients never write the same user at once, so the last writer is always known."""


class Row(NamedTuple):
    """An intake. ``id`` is None between an acknowledged insert and the reading of the number it was given."""

    id: int | None
    volume: Volume


class User(NamedTuple):
    """A user and all intakes by their time (UTC, naive). ``notification`` None: never set, so the default."""

    email: str
    """MD5 digest: the application's personal data does not stay in memory."""
    notification: bool | None
    intakes: Mapping[datetime, Row]


Users: TypeAlias = Mapping[int, User | None]
"""Users by id; None is a user that was deleted."""


class IntakeKey(NamedTuple):
    """What identifies an intake whatever its id became: the user and the time."""

    user: int
    at: datetime


def digest(email: str | None) -> str:
    """Return the MD5 digest under which an e-mail address is remembered and compared."""
    return hashlib.md5((email or "").encode(), usedforsecurity=False).hexdigest()


class Record:
    """What is expected of every user and intake. Thread-safe as long as a user is changed under `hold`."""

    def __init__(self, users: Users) -> None:
        self._users: dict[int, User | None] = dict(users)
        self._ids: list[int] = list(users)
        self._stripes = tuple(Lock() for _ in range(STRIPES))
        self._lock = Lock()
        self._touched: set[IntakeKey] = set()
        self._touched_users: set[int] = set()
        self._acknowledged = 0

    @property
    def acknowledged(self) -> int:
        """Write statements whose success the server reported."""
        return self._acknowledged

    @property
    def touched(self) -> frozenset[IntakeKey]:
        """The intakes that an acknowledged write created, changed or deleted."""
        return frozenset(self._touched)

    @property
    def touched_users(self) -> frozenset[int]:
        return frozenset(self._touched_users)

    @contextmanager
    def hold(self, users: Iterable[int]) -> Iterator[None]:
        """Keep every other client away from these users."""
        with ExitStack() as stack:
            for stripe in sorted({user % STRIPES for user in users}):
                stack.enter_context(self._stripes[stripe])
            yield

    def pick(self, choose: Callable[[list[int]], int]) -> int:
        """Return the id of some user, perhaps a deleted one; ``choose`` is a client's seeded ``Random.choice``."""
        return choose(self._ids)

    def user(self, user: int) -> User | None:
        return self._users.get(user)

    def acknowledge(self, after: Users, *, statements: int) -> None:
        """Take over the state that acknowledged statements left; the users must be held."""
        touched: set[IntakeKey] = set()
        for number, state in after.items():
            before = self._users.get(number)
            touched |= {IntakeKey(number, at) for at in _differing(before, state)}
        with self._lock:
            for number, state in after.items():
                if number not in self._users:
                    self._ids.append(number)
                if _own(self._users.get(number)) != _own(state):
                    self._touched_users.add(number)
                self._users[number] = state
            self._touched |= touched
            self._acknowledged += statements

    def expected(self) -> dict[int, User | None]:
        """Return all that is expected now; only meaningful while no client writes."""
        return dict(self._users)


def _own(user: User | None) -> tuple[str, bool | None] | None:
    return None if user is None else (user.email, user.notification)


def _differing(before: User | None, after: User | None) -> Iterator[datetime]:
    was = before.intakes if before else {}
    now = after.intakes if after else {}
    for at in was.keys() | now.keys():
        if was.get(at) != now.get(at):
            yield at
