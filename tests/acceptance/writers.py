"""Generic clients of an acceptance case: they send the case's statements with seeded parameters, and keep a log.

Every writer owns the keys whose number leaves its own remainder, so statements of different writers commute. That
makes the expectation simple and exact: replaying the log, writer after writer, on a copy must give the same rows.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

import psycopg

Shape = Literal["old", "new"]
TEXTS = ("plain", "naïve café", "O'Brien", 'say "hi"', "水", "50% off; --", "back\\slash", " spaces ", "x" * 200)
PAUSE = 0.02


@dataclass(frozen=True)
class Sent:
    """An acknowledged statement."""

    shape: Shape
    text: str
    values: Mapping[str, Any]
    rows: int
    """How many rows it found, as the server answered."""


@dataclass
class Workload:
    """Statement templates by shape and name.

    Parameters: ``n`` the number of one of the writer's own keys (perhaps deleted meanwhile), ``fresh`` a number never
    used before, ``i`` an integer from 1 to 1000, ``t`` an awkward text, ``w`` one word, ``b`` a boolean.
    """

    keys: int
    """The rows of ``rows.sql`` or ``schema.sql`` have the numbers 1 to ``keys``."""
    old: Mapping[str, str]
    new: Mapping[str, str]

    def templates(self, shape: Shape) -> Mapping[str, str]:
        return self.old if shape == "old" else self.new


class Writer(threading.Thread):
    """Writes in one shape until told otherwise; a change of shape is a new deployment, so a new connection."""

    def __init__(self, conninfo: str, workload: Workload, *, part: int, parts: int) -> None:
        super().__init__(name=f"writer-{part}", daemon=True)
        self.log: list[Sent] = []
        self.errors: list[str] = []
        self._conninfo = conninfo
        self._workload = workload
        self._random = Random(part)
        self._keys = [n for n in range(1, workload.keys + 1) if n % parts == part]
        self._fresh = iter(range(10_000_000 + part, 2_000_000_000, parts))
        self._shape: Shape = "old"
        self._wanted: Shape | None = "old"
        self._changed = threading.Condition()

    def become(self, shape: Shape) -> None:
        """Change the shape; returns when the last statement of the former one is answered."""
        with self._changed:
            self._wanted = shape
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._shape == shape or not self.is_alive(), timeout=60)

    def stop(self) -> None:
        """Stop and disconnect; returns when the last statement is answered."""
        with self._changed:
            self._wanted = None
            self._changed.notify_all()
        self.join()

    def run(self) -> None:
        while self._wanted is not None:
            with psycopg.connect(self._conninfo, autocommit=True, application_name="acceptance writer") as connection:
                with self._changed:
                    self._shape = self._wanted or self._shape
                    self._changed.notify_all()
                self._write(connection)

    def _write(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        templates = list(self._workload.templates(self._shape).items())
        while self._wanted == self._shape:
            name, text = self._random.choice(templates)
            values = self._values()
            try:
                done = connection.execute(text.encode(), values)
            except psycopg.Error as error:
                self.errors.append(f"{self._shape} {name}: {error.sqlstate} {error.diag.message_primary or error}")
                if connection.closed:
                    return
            else:
                self.log.append(Sent(self._shape, text, values, done.rowcount))
                if "%(fresh)s" in text:
                    self._keys.append(values["fresh"])
            with self._changed:
                self._changed.wait_for(lambda: self._wanted != self._shape, timeout=PAUSE)

    def _values(self) -> dict[str, Any]:
        chance = self._random
        return {
            # A table that is empty at first has no row for anybody; no row has the number 0.
            "n": chance.choice(self._keys) if self._keys else 0,
            "fresh": next(self._fresh),
            "i": chance.randint(1, 1000),
            "t": chance.choice(TEXTS),
            "w": "".join(chance.choices("abcdefghij", k=6)),
            "b": chance.random() < 0.5,
        }


@dataclass
class Writers:
    """All writers of one run: half of them change to the new shape at the switch, the others before contract."""

    conninfo: str = field(repr=False)
    workload: Workload
    count: int = 4

    def __enter__(self) -> Writers:
        self.all = [Writer(self.conninfo, self.workload, part=part, parts=self.count) for part in range(self.count)]
        for writer in self.all:
            writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self.all:
            writer.stop()

    @property
    def first_half(self) -> Sequence[Writer]:
        return self.all[: self.count // 2]

    def become(self, writers: Iterable[Writer], shape: Shape) -> None:
        for writer in writers:
            writer.become(shape)

    @property
    def errors(self) -> list[str]:
        return [error for writer in self.all for error in writer.errors]

    def acknowledged(self, shape: Shape) -> list[Sent]:
        """Return what was acknowledged in a shape, writer after writer."""
        return [sent for writer in self.all for sent in writer.log if sent.shape == shape]


def replay(conninfo: str, statements: Iterable[Sent]) -> None:
    """Send acknowledged statements again, to a copy."""
    with psycopg.connect(conninfo) as connection:
        for sent in statements:
            connection.execute(sent.text.encode(), sent.values)
