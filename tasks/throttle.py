"""Pause, resume, and the throttle's limits of a migration, whether it runs now or not; kept in the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.database.connection import Target, connect
from tasks.database.ledger import Connection, Ledger, install
from tasks.database.records import MigrationRecord, ThrottleRecord
from tasks.planning.errors import UsageError
from tasks.planning.states import MigrationState
from tasks.planning.throttle import Limits, reasons

OVER = frozenset({MigrationState.FINISHED, MigrationState.ROLLED_BACK, MigrationState.CLEANED})


@dataclass(frozen=True)
class Throttling:
    """What holds a migration back, or would: the limits that count, those given by hand, and what was last seen."""

    migration: MigrationRecord
    limits: Limits
    by_hand: tuple[str, ...]
    """The names of the limits that differ from the plan's."""
    record: ThrottleRecord

    @property
    def exceeded(self) -> tuple[str, ...]:
        """Why it would wait by what was last seen, with the limits of now."""
        return reasons(self.limits, self.record.load) if self.record.load is not None else ()


def pause(target: Target, name: str, *, who: str, why: str) -> bool:
    """Pause a migration and return whether a runner is at work, which then stops within seconds.

    Raises UnknownMigration, UsageError where there is nothing to pause.
    """
    with connect(target, role="pause") as connection:
        ledger = _open(connection, name)
        ledger.pause(name, who=who, why=why)
        holder = ledger.holder(name)
        return holder is not None and not holder.expired


def resume(target: Target, name: str, *, who: str) -> None:
    """Let a paused migration go on. Raises UnknownMigration, UsageError where it is not paused."""
    with connect(target, role="resume") as connection:
        if not _open(connection, name).resume(name, who=who):
            raise UsageError(f"{name} is not paused.", remedy=f"See  lockstep status {name}")


def throttling(target: Target, name: str) -> Throttling:
    """Return what holds a migration back, or would. Raises UnknownMigration."""
    with connect(target, role="throttle") as connection:
        ledger = Ledger(connection)
        return _throttling(ledger.known_migration(name), ledger.throttle(name))


def change_limits(target: Target, name: str, changes: Mapping[str, Any], *, who: str) -> Throttling:
    """Change limits, given as they are written, and return what counts now.

    A runner takes them up within a second or two. Raises UnknownMigration, UsageError.
    """
    with connect(target, role="throttle") as connection:
        ledger = _open(connection, name)
        migration, record = ledger.known_migration(name), ledger.throttle(name)
        planned = migration.plan.throttle
        limits = planned.changed({**record.limits, **changes})
        written, before = limits.model_dump(mode="json"), planned.model_dump(mode="json")
        by_hand = {field: value for field, value in written.items() if value != before[field]}
        ledger.set_limits(name, by_hand, who=who)
        return _throttling(migration, ledger.throttle(name))


def _throttling(migration: MigrationRecord, record: ThrottleRecord) -> Throttling:
    return Throttling(migration, migration.plan.throttle.changed(record.limits), tuple(record.limits), record)


def _open(connection: Connection, name: str) -> Ledger:
    """Return the ledger, brought up to this version. Raises UnknownMigration, UsageError for one that is over."""
    ledger = Ledger(connection)
    state = ledger.known_migration(name).state
    if state in OVER:
        raise UsageError(f"{name} is over: it is {state.value.replace('_', ' ')}.")
    install(connection)
    return ledger
