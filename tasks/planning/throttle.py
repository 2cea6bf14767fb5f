"""The throttle's limits, what is measured against them, and which of them are exceeded. Pure.

`Limits` are written alike in a spec (``throttle:``), in a plan, in the ledger and on the command line: times and sizes
with their unit, ``off`` for no limit. `Load` is one look at the server. `reasons` compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, field_validator

from tasks.planning import parser
from tasks.planning.errors import UsageError

OFF = "off"
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}
BYTES = {"B": 1, "kB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
LEAST_DEAD_ROWS = 100_000
"""So many dead rows of a small table are no bloat worth waiting for."""


class Part(BaseModel):
    """Base of the throttle's value types: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# ------------------------------------------------------------------------------------------------ units


def _is_off(value: object) -> bool:
    # YAML 1.1 reads an unquoted off as false.
    return value is None or value is False or value == OFF


def _measure(value: object, units: Mapping[str, float], example: str) -> float:
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*([A-Za-z]+)", value.strip()) if isinstance(value, str) else None
    known = {unit.lower(): size for unit, size in units.items()}
    if match is None or match[2].lower() not in known:
        raise ValueError(f"write a number and a unit ({', '.join(units)}), e.g. {example}, or off")
    return float(match[1]) * known[match[2].lower()]


def _seconds(value: object) -> object:
    return None if _is_off(value) else _measure(value, SECONDS, "10s")


def _bytes(value: object) -> object:
    return None if _is_off(value) else int(_measure(value, BYTES, "16GB"))


def _rate(value: object) -> object:
    if _is_off(value):
        return None
    if not isinstance(value, str) or not value.endswith("/s"):
        raise ValueError("write a size a second, e.g. 50MB/s, or off")
    return int(_measure(value.removesuffix("/s"), BYTES, "50MB/s"))


def _percent(value: object) -> object:
    if _is_off(value):
        return None
    match = re.fullmatch(r"(\d{1,4})\s*%", value) if isinstance(value, str) else None
    if match is None or not int(match[1]):
        raise ValueError("write a percentage above 0, e.g. 30%, or off")
    return int(match[1])


def _count(value: object) -> object:
    if _is_off(value):
        return None
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value):
        return int(value)
    # YAML 1.1 reads an unquoted on or yes as true, which is an int to Python.
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("write a whole number, e.g. 10, or off")
    return value


def seconds_text(value: float) -> str:
    """Return seconds as a limit is written: ``10s``, ``1500ms``, ``2h``."""
    for unit in ("d", "h", "m", "s"):
        if value >= SECONDS[unit] and value % SECONDS[unit] == 0:
            return f"{int(value / SECONDS[unit])}{unit}"
    return f"{round(value * 1000)}ms"


def bytes_text(value: float) -> str:
    """Return bytes as a limit is written: ``16GB``, ``1536kB``."""
    for unit in ("TB", "GB", "MB", "kB"):
        if value >= BYTES[unit] and value % BYTES[unit] == 0:
            return f"{int(value / BYTES[unit])}{unit}"
    return f"{int(value)}B"


def _written(text: Callable[[Any], str]) -> PlainSerializer:
    """Serialize a limit the way it is written, so that what is stored can be read and given back."""
    return PlainSerializer(lambda value: None if value is None else text(value), when_used="json")


def _read(reader: Callable[[object], object], form: Any) -> BeforeValidator:
    """Read a limit, which an editor's schema describes as ``form`` (or off, which YAML 1.1 takes for false)."""
    return BeforeValidator(reader, json_schema_input_type=form)


_TEXT = str | Literal[False]
_NUMBER = int | Literal["off", False]
Seconds = Annotated[float | None, _read(_seconds, _TEXT), _written(seconds_text)]
Bytes = Annotated[int | None, _read(_bytes, _TEXT), _written(bytes_text)]
Rate = Annotated[int | None, _read(_rate, _TEXT), _written(lambda value: f"{bytes_text(value)}/s")]
Percent = Annotated[int | None, _read(_percent, _TEXT), _written(lambda value: f"{value}%")]
Count = Annotated[Annotated[int, Field(ge=0)] | None, _read(_count, _NUMBER)]
Number = Annotated[Annotated[int, Field(ge=1)] | None, _read(_count, _NUMBER)]


# ------------------------------------------------------------------------------------------------ limits


class Limits(Part):
    """What the server may suffer while a migration works on its data. ``None`` (``off``) is no limit.

    The defaults protect replicas, the disk and whoever waits for locks, and are never reached on an idle server.
    """

    replication_lag: Seconds = Field(
        default=10.0,
        description="How far any standby may be behind, e.g. 10s, or off",
        json_schema_extra={"default": "10s"},
    )
    replication_bytes: Bytes = Field(default=None, description="The same in WAL not yet replayed, e.g. 256MB")
    slot_lag: Bytes = Field(
        default=16 * 2**30,
        description="WAL that any replication slot may hold back, e.g. 16GB",
        json_schema_extra={"default": "16GB"},
    )
    lock_waiters: Count = Field(default=10, description="Sessions of the database that may be waiting for a lock")
    active_sessions: Count = Field(default=None, description="Client sessions of the server that may be active")
    wal_rate: Rate = Field(default=None, description="WAL that the whole server may write, e.g. 50MB/s")
    rows_per_second: Number = Field(default=None, description="Rows that are filled a second")
    dead_rows: Percent = Field(
        default=30,
        description="Dead rows that VACUUM has not removed or cannot remove (a long transaction, a slot), as part of "
        f"the table; never less than {LEAST_DEAD_ROWS:,} rows. E.g. 30%",
        json_schema_extra={"default": "30%"},
    )
    ignore: tuple[str, ...] = Field(default=(), description="Standbys and slots that do not count, by name")
    sql: tuple[str, ...] = Field(
        default=(), description="SELECTs of your own that return true when the work may go on; run read-only"
    )

    @field_validator("sql")
    @classmethod
    def _are_questions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not parser.is_one_select(text):
                raise ValueError("each entry is one SELECT that returns true or false")
        return value

    @property
    def set(self) -> tuple[tuple[str, str], ...]:
        """Return the limits that are not off, by name, as they are written."""
        written = self.model_dump(mode="json")
        return tuple(
            (name, "; ".join(value) if isinstance(value, list) else str(value))
            for name, value in written.items()
            if value not in (None, [])
        )

    def changed(self, changes: Mapping[str, Any]) -> Limits:
        """Return the limits with some of them given anew, as text. Raises UsageError."""
        try:
            return Limits.model_validate({**self.model_dump(mode="json"), **changes})
        except ValidationError as error:
            told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
            raise UsageError(f"The throttle's limits: {told.replace('Value error, ', '')}.") from None


# ------------------------------------------------------------------------------------------------ one look


class Replica(Part):
    """A standby: how far its replay is behind."""

    name: str
    seconds: float
    bytes: int


class Slot(Part):
    """A replication slot: the WAL that the server keeps for it, in bytes."""

    name: str
    bytes: int
    active: bool


class Snapshot(Part):
    """Who holds the oldest snapshot of the database, in words, since how many seconds (None: not known)."""

    who: str
    seconds: float | None


class Load(Part):
    """One look at the server. ``None`` is not measured: not yet, or not visible to the role."""

    sees_all: bool = True
    """Whether the role sees replicas and other roles' sessions (pg_read_all_stats)."""
    replicas: tuple[Replica, ...] = ()
    slots: tuple[Slot, ...] = ()
    lock_waiters: int | None = None
    active_sessions: int | None = None
    wal_rate: float | None = None
    """Bytes a second, of the whole server."""
    held_rows: int = 0
    """Dead rows of this run that no VACUUM can remove, because ``oldest`` may still see them."""
    oldest: Snapshot | None = None
    unvacuumed_rows: int = 0
    """Rows written while the VACUUM that still runs has been running."""
    table: str = ""
    table_rows: int = 0
    objections: tuple[str, ...] = ()
    """What the user's own SQL says against going on."""
    failures: tuple[str, ...] = ()
    """Why the look itself, or a question of the user's own, got no answer."""

    def lines(self, limits: Limits) -> tuple[str, ...]:
        """Return what was seen, in lines for people, with the limits that this role cannot watch."""
        unseen = blind(limits) if not self.sees_all else ()
        lines = [
            *(f"replica {r.name}: {seconds_shown(r.seconds)}, {bytes_shown(r.bytes)} behind" for r in self.replicas),
            *(
                f"{'slot' if slot.active else 'inactive slot'} {slot.name}: holds back {bytes_shown(slot.bytes)} of WAL"
                for slot in self.slots
            ),
        ]
        if self.wal_rate is not None:
            lines.append(f"WAL of the server: {bytes_shown(self.wal_rate)}/s")
        if self.lock_waiters is not None:
            lines.append(f"sessions that wait for a lock: {self.lock_waiters}")
        if self.active_sessions is not None:
            lines.append(f"active sessions: {self.active_sessions}")
        if self.held_rows and self.oldest is not None:
            lines.append(f"dead rows that {self.oldest.who} keeps from being removed: {self.held_rows:,}")
        if unseen:
            lines.append(f"not watched: {', '.join(unseen)}; the role lacks pg_read_all_stats (GRANT pg_monitor)")
        return tuple(lines)


def reasons(limits: Limits, load: Load) -> tuple[str, ...]:
    """Return why the work has to wait, a sentence for each limit that is exceeded; empty when it may go on."""
    return (
        *_of_replication(limits, load),
        *_of_sessions(limits, load),
        *_of_rows(limits, load),
        *load.objections,
        *load.failures,
    )


def blind(limits: Limits) -> tuple[str, ...]:
    """Return the names of the limits that a role without pg_read_all_stats cannot watch."""
    names = ("replication_lag", "replication_bytes", "active_sessions", "dead_rows")
    return tuple(name for name in names if getattr(limits, name) is not None)


def _of_replication(limits: Limits, load: Load) -> Iterator[str]:
    for replica in load.replicas:
        if replica.name in limits.ignore:
            continue
        if limits.replication_lag is not None and replica.seconds > limits.replication_lag:
            yield (
                f"the replica {replica.name} is {seconds_shown(replica.seconds)} behind, "
                f"limit {seconds_shown(limits.replication_lag)}"
            )
        elif limits.replication_bytes is not None and replica.bytes > limits.replication_bytes:
            yield (
                f"the replica {replica.name} is {bytes_shown(replica.bytes)} behind, "
                f"limit {bytes_shown(limits.replication_bytes)}"
            )
    for slot in load.slots:
        if limits.slot_lag is not None and slot.bytes > limits.slot_lag and slot.name not in limits.ignore:
            kind = "" if slot.active else "inactive "
            yield (
                f"the {kind}replication slot {slot.name} holds back {bytes_shown(slot.bytes)} of WAL, "
                f"limit {bytes_shown(limits.slot_lag)}"
            )
    if limits.wal_rate is not None and load.wal_rate is not None and load.wal_rate > limits.wal_rate:
        yield f"the server writes {bytes_shown(load.wal_rate)}/s of WAL, limit {bytes_shown(limits.wal_rate)}/s"


def _of_sessions(limits: Limits, load: Load) -> Iterator[str]:
    if limits.lock_waiters is not None and (load.lock_waiters or 0) > limits.lock_waiters:
        yield f"{load.lock_waiters} sessions wait for locks, limit {limits.lock_waiters}"
    if limits.active_sessions is not None and (load.active_sessions or 0) > limits.active_sessions:
        yield f"{load.active_sessions} sessions are active, limit {limits.active_sessions}"


def _of_rows(limits: Limits, load: Load) -> Iterator[str]:
    if limits.dead_rows is None:
        return
    limit = max(LEAST_DEAD_ROWS, load.table_rows * limits.dead_rows // 100)
    if load.held_rows > limit and load.oldest is not None:
        since = f" for {seconds_shown(load.oldest.seconds)}" if load.oldest.seconds is not None else ""
        yield (
            f"{load.held_rows:,} dead rows of {load.table} cannot be removed, limit {limit:,}: "
            f"{load.oldest.who} holds an old snapshot{since}"
        )
    if load.unvacuumed_rows > limit:
        yield f"VACUUM of {load.table} is {load.unvacuumed_rows:,} rows behind, limit {limit:,}"


def seconds_shown(seconds: float) -> str:
    """Return seconds as people read them: ``1.5 s``, ``12 s``, ``3 h``."""
    if seconds < 10:
        return f"{seconds:.3g} s"
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def bytes_shown(count: float) -> str:
    """Return bytes as people read them: ``1.5 GB``, in PostgreSQL's units of 1024."""
    for unit in ("TB", "GB", "MB", "kB"):
        if count >= BYTES[unit]:
            return f"{count / BYTES[unit]:.3g} {unit}"
    return f"{count:.0f} B"
