"""One client of the simulated application: a thread with a connection of its own that knows one shape."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import TupleRow

from tasks.application.latency import Timing
from tasks.application.observation import Discrepancy, differences, read_users
from tasks.application.operations import READ_SHARE, WRITES, Situation, Work
from tasks.application.record import Record, User, Users
from tasks.application.statements import TEXTS, Command
from tasks.application.volumes import ShapeName

# Zones in turn: what a session's TimeZone is must not matter to the migration.
_TIME_ZONES = ("UTC", "America/New_York", "Asia/Kolkata")


class ClientError(NamedTuple):
    """A statement that failed and should not have, or should have failed and did not. No values of a row."""

    shape: ShapeName
    statement: str
    sqlstate: str | None
    message: str
    """Condition and object names of the server's message; never its detail, which quotes values."""


@dataclass
class Journal:
    """What all clients saw. Only appended to, so that threads need no lock."""

    timings: list[Timing] = field(default_factory=list)
    errors: list[ClientError] = field(default_factory=list)
    discrepancies: list[Discrepancy] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """Statements whose answer was lost with the connection; resolved by reading."""


class Traffic:
    """Lets clients take turns of one operation each, and can wait until none is under way."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._paused = 0
        self._active = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._paused == 0)
            self._active += 1
        try:
            yield
        finally:
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """While the body runs, no client has a statement under way."""
        with self._changed:
            self._paused += 1
            self._changed.wait_for(lambda: self._active == 0)
        try:
            yield
        finally:
            with self._changed:
                self._paused -= 1
                self._changed.notify_all()


@dataclass(frozen=True)
class Pace:
    """``pause``: seconds of thinking between operations. ``reconnect``: seconds that a lost server is waited for.

    With ``reconnect`` 0 a lost connection is an error; above it is expected, as in a test that restarts the server.
    """

    pause: float = 0.005
    reconnect: float = 0.0


class Client(threading.Thread):
    """Chooses operations by seeded chance until it is told to stop."""

    def __init__(
        self, shape: ShapeName, number: int, *, conninfo: str, seed: int, pace: Pace, record: Record,
        traffic: Traffic, journal: Journal,
    ) -> None:  # fmt: skip
        super().__init__(name=f"drink-water-{shape}-{number}", daemon=True)
        self.shape = shape
        self._conninfo = conninfo
        self._zone = _TIME_ZONES[number % len(_TIME_ZONES)]
        self._random = Random(f"{seed} {shape} {number}")  # noqa: S311 - repeatable, not secret
        self._pace = pace
        self._record = record
        self._traffic = traffic
        self._journal = journal
        self._leave = threading.Event()
        self._connection = self._connect()

    def leave(self) -> None:
        """Ask the client to finish its operation and disconnect."""
        self._leave.set()

    def run(self) -> None:
        try:
            while not self._leave.is_set():
                with self._traffic.turn():
                    self._operate()
                self._leave.wait(self._pace.pause)
        finally:
            self._connection.close()

    def _connect(self) -> psycopg.Connection[TupleRow]:
        connection = psycopg.connect(
            self._conninfo, autocommit=True, connect_timeout=5, application_name=f"drink-water:{self.shape}"
        )
        connection.execute("SELECT set_config('TimeZone', %s, false)", [self._zone])
        return connection

    def _operate(self) -> None:
        first, second = (self._record.pick(self._random.choice) for _ in range(2))
        with self._record.hold((first, second)):
            if self._random.random() < READ_SHARE:
                self._read(first)
                return
            situation = Situation(
                self.shape, self._random, first, self._record.user(first), second, self._record.user(second)
            )
            operations = WRITES[self.shape]
            (choose,) = self._random.choices(list(operations), weights=list(operations.values()))
            work = choose(situation)
            if work is not None:
                self._perform(work)

    def _read(self, user: int) -> None:
        command = Command("read", TEXTS[self.shape]["read"], {"user": user})
        try:
            self._execute(command)
            # Timed as well: a lock may meet this reading and no other statement of the client.
            with self._timed("read"):
                seen = read_users(self._connection, self.shape, (user,))[user]
        except psycopg.Error as error:
            self._fail("read", error)
            return
        self._journal.discrepancies += differences(self.shape, user, seen, self._record.user(user))

    def _perform(self, work: Work) -> None:
        try:
            given = self._send(work)
        except psycopg.Error as error:
            if work.refused is not None and error.sqlstate == work.refused:
                self._journal.refused.append(work.name)
            elif self._fail(work.name, error):
                self._resolve(work)
            return
        if work.refused is not None:
            message = f"was accepted, expected SQLSTATE {work.refused}"
            self._journal.errors.append(ClientError(self.shape, work.name, None, message))
        elif not work.abandoned:
            self._record.acknowledge(_numbered(work.after, given), statements=len(work.commands))

    def _send(self, work: Work) -> dict[tuple[int, Any], int]:
        """Send the statements; return the ids that inserts were given, by ``(user, time)``."""
        if len(work.commands) == 1:
            return self._given(work.commands[0])
        given: dict[tuple[int, Any], int] = {}
        self._execute(Command("begin", "BEGIN", {}))
        try:
            for command in work.commands:
                given |= self._given(command)
        except psycopg.Error:
            if not self._connection.closed:
                self._connection.execute("ROLLBACK")
            raise
        ending = Command("rollback", "ROLLBACK", {}) if work.abandoned else Command("commit", "COMMIT", {})
        self._execute(ending)
        return given

    def _given(self, command: Command) -> dict[tuple[int, Any], int]:
        cursor = self._execute(command)
        if command.gives is None:
            return {}
        row = cursor.fetchone()
        return {} if row is None else {command.gives: row[0]}

    def _execute(self, command: Command) -> psycopg.Cursor[TupleRow]:
        with self._timed(command.name):
            return self._connection.execute(command.text.encode(), command.values)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        sent = time.monotonic()
        try:
            yield
        finally:
            waited = (time.monotonic() - sent) * 1000
            self._journal.timings.append(Timing(name, sent, waited))

    def _fail(self, statement: str, error: psycopg.Error) -> bool:
        """Note the failure; return True when the connection is lost, which makes a write's outcome unknown."""
        lost = self._connection.closed
        if not (lost and self._pace.reconnect > 0):
            message = error.diag.message_primary or type(error).__name__
            self._journal.errors.append(ClientError(self.shape, statement, error.sqlstate, message))
        if lost:
            self._reconnect()
        return lost

    def _reconnect(self) -> None:
        give_up = time.monotonic() + self._pace.reconnect
        while True:
            try:
                self._connection = self._connect()
            except psycopg.OperationalError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.1)
            else:
                return

    def _resolve(self, work: Work) -> None:
        """Find out by reading whether a write whose answer was lost was committed."""
        self._journal.unknown.append(work.name)
        if work.refused is not None or work.abandoned:
            return
        seen = self._read_until_answered(work.after)
        before = {number: self._record.user(number) for number in work.after}
        if not list(_all_differences(self.shape, seen, work.after)):
            self._record.acknowledge(_adopted(work.after, seen), statements=len(work.commands))
        else:
            self._journal.discrepancies += _all_differences(self.shape, seen, before)

    def _read_until_answered(self, users: Users) -> Users:
        while True:
            try:
                return read_users(self._connection, self.shape, users)
            except psycopg.OperationalError:
                if not self._connection.closed:
                    raise
                self._reconnect()


def _all_differences(shape: ShapeName, seen: Users, expected: Users) -> Iterator[Discrepancy]:
    for number, user in expected.items():
        yield from differences(shape, number, seen[number], user)


def _numbered(after: Users, given: dict[tuple[int, Any], int]) -> Users:
    """Return the state with the ids that the server chose."""
    numbered = dict(after)
    for (number, at), given_id in given.items():
        user = numbered.get(number)
        if user is not None and at in user.intakes:
            intakes = dict(user.intakes) | {at: user.intakes[at]._replace(id=given_id)}
            numbered[number] = user._replace(intakes=intakes)
    return numbered


def _adopted(after: Users, seen: Users) -> Users:
    """Return the state with the ids that were read."""
    given = {
        (number, at): row.id
        for number, user in seen.items()
        if isinstance(user, User)
        for at, row in user.intakes.items()
        if row.id is not None
    }
    return _numbered(after, given)
