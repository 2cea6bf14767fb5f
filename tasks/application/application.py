"""The application as a whole: clients of both shapes, their common record, and the comparison at the end."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType

import psycopg

from tasks.application.client import Client, ClientError, Journal, Pace, Traffic
from tasks.application.latency import Latency, Timing, summarise
from tasks.application.observation import Discrepancy, differences, read_all, shapes
from tasks.application.record import IntakeKey, Record, User
from tasks.application.volumes import ShapeName


@dataclass(frozen=True)
class Comparison:
    """The tables against the record: every row, also those that no client ever touched."""

    shapes: tuple[ShapeName, ...]
    """The shapes through which the tables could be read; each was compared."""
    users: int
    intakes: int
    touched: int
    """Users and intakes that acknowledged writes created, changed or deleted."""
    found: int
    """Of these, how many are in every shape as the last acknowledged write left them."""
    discrepancies: tuple[Discrepancy, ...]

    @property
    def equal(self) -> bool:
        """Fails closed: a comparison through no shape compared nothing."""
        return bool(self.shapes) and not self.discrepancies and self.found == self.touched


@dataclass(frozen=True)
class Report:
    """What the application's users noticed."""

    statements: int
    acknowledged: int
    refused: int
    """Duplicates and invalid volumes that the server refused, as it must."""
    unknown: int
    errors: tuple[ClientError, ...]
    discrepancies: tuple[Discrepancy, ...]
    """Readings that did not show what had been acknowledged."""
    latency: Latency


@dataclass
class Application:
    """``with Application(conninfo) as application: application.set_shapes(old=4, new=0) …``

    The record is taken from the tables when it is entered; from then on nothing but its own clients may write.
    """

    conninfo: str = field(repr=False)
    seed: int = 1
    pace: Pace = field(default_factory=Pace)

    def __enter__(self) -> Application:
        with self._connect() as connection:
            readable = shapes(connection)
            users: dict[int, User | None] = dict(read_all(connection, readable[0]))
        self._record = Record(users)
        self._traffic = Traffic()
        self._journal = Journal()
        self._clients: list[Client] = []
        self._started = 0
        # The record is many small objects that live to the end: a collection that walks them would stall the
        # clients and be measured as the database's.
        gc.collect()
        gc.freeze()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.set_shapes(old=0, new=0)
        gc.unfreeze()

    def set_shapes(self, *, old: int, new: int) -> None:
        """Start or stop clients until so many of each shape run."""
        self._set("old", old)
        self._set("new", new)

    def _set(self, shape: ShapeName, wanted: int) -> None:
        running = [client for client in self._clients if client.shape == shape]
        leaving = running[wanted:]
        for client in leaving:
            client.leave()
        for client in leaving:
            client.join()
            self._clients.remove(client)
        for _ in range(wanted - len(running)):
            self._started += 1
            client = Client(
                shape, self._started, conninfo=self.conninfo, seed=self.seed, pace=self.pace, record=self._record,
                traffic=self._traffic, journal=self._journal,
            )  # fmt: skip
            self._clients.append(client)
            client.start()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """While the body runs, no client has a statement under way."""
        with self._traffic.quiet():
            yield

    @property
    def dead(self) -> int:
        """Clients whose thread ended by itself: a mistake of the simulation or a server that did not come back."""
        return sum(not client.is_alive() for client in self._clients)

    def compare(self, through: frozenset[ShapeName] = frozenset({"old", "new"})) -> Comparison:
        """Compare every row with the record, through each of these shapes that the tables have; clients pause.

        Before the switch compare through ``old`` only: the new columns are there, but not filled yet.
        """
        with self.quiet(), self._connect() as connection:
            readable = tuple(shape for shape in shapes(connection) if shape in through)
            seen = {shape: read_all(connection, shape) for shape in readable}
            expected = self._record.expected()
            touched, touched_users = self._record.touched, self._record.touched_users
        found = [
            discrepancy
            for shape, users in seen.items()
            for number in users.keys() | expected.keys()
            for discrepancy in differences(shape, number, users.get(number), expected.get(number))
        ]
        wrong = {IntakeKey(item.user, item.at) for item in found if item.at is not None} & touched
        wrong_users = {item.user for item in found if item.at is None} & touched_users
        return Comparison(
            shapes=readable,
            users=sum(user is not None for user in expected.values()),
            intakes=sum(len(user.intakes) for user in expected.values() if user is not None),
            touched=len(touched) + len(touched_users),
            found=len(touched) + len(touched_users) - len(wrong) - len(wrong_users),
            discrepancies=tuple(found),
        )

    def report(self) -> Report:
        """Return what was measured so far."""
        journal = self._journal
        return Report(
            statements=len(journal.timings),
            acknowledged=self._record.acknowledged,
            refused=len(journal.refused),
            unknown=len(journal.unknown),
            errors=tuple(journal.errors),
            discrepancies=tuple(journal.discrepancies),
            latency=summarise(list(journal.timings)),
        )

    @property
    def timings(self) -> tuple[Timing, ...]:
        """Every statement so far, in the order of their answers."""
        return tuple(self._journal.timings)

    def latency_since(self, moment: float) -> Latency:
        """Return the latency of the statements sent after ``moment`` (``time.monotonic`` seconds)."""
        return summarise(timing for timing in list(self._journal.timings) if timing.sent >= moment)

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.conninfo, autocommit=True, application_name="drink-water:compare")
