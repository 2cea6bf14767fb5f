"""Lockstep's errors: one tree, each with fields and a sentence about what is safe to do now.

::

    LockstepError
    ├── UsageError                    exit 2: nothing was touched
    │   ├── SpecError                 the spec does not say something that can be done
    │   ├── Unsupported               a change this version refuses, by name
    │   ├── UnknownDatabase           a database name that resolves to nothing
    │   └── UnknownMigration
    ├── Waiting                       exit 3: an approval, a soak or a window is due
    └── MigrationError                exit 1: stopped, and safe
        ├── CannotConnect
        ├── MissingPrivilege
        ├── ReadOnlyServer
        ├── PoolerRefused
        ├── SchemaChanged             the live schema is not the planned one
        ├── HistoryChanged            Flyway has run what it should not have
        ├── LockNotAcquired           names the sessions that were in the way
        ├── SnapshotHeld              names the transactions that did not end
        ├── RunnerBusy                somebody else runs this migration
        ├── LeaseLost                 this process was replaced and must not act any more
        ├── GateFailed
        ├── SyncFailing               `up` or `down` fails on rows of the table
        ├── StepFailed
        ├── RehearsalFailed           on a clone, before anything was touched
        └── RollbackRefused

Every message is written for a tired person: what happened, where, whether the data is safe, what to do now.
No message carries a password or a value of a row.
"""

from __future__ import annotations


class LockstepError(Exception):
    """``what`` happened and where, ``safety``: the state of the data, ``remedy``: what to do now."""

    exit_code = 1
    default_safety = "Nothing is half done: the step that failed was rolled back and both shapes are intact."

    def __init__(self, what: str, *, safety: str | None = None, remedy: str | None = None) -> None:
        self.what = what
        self.safety = safety if safety is not None else self.default_safety
        self.remedy = remedy
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what, self.safety]
        if self.remedy:
            lines.append(self.remedy)
        return "\n".join(line for line in lines if line)


class UsageError(LockstepError):
    """What was asked for cannot be done as asked; the database was not touched."""

    exit_code = 2
    default_safety = "Nothing was touched."


class SpecError(UsageError):
    """The spec is not well-formed, or does not fit the database it names."""


class Unsupported(UsageError):
    """A change that this version refuses; the message names it and says what to do instead."""

    def __init__(self, change: str, *, instead: str) -> None:
        self.change = change
        super().__init__(f"Not supported: {change}.", remedy=instead)


class UnknownDatabase(UsageError):
    """A database name that neither an environment variable nor a Secret block resolves."""


class UnknownMigration(UsageError):
    """No migration of that name is recorded in the ledger."""


class Waiting(LockstepError):
    """The migration waits: for an approval, for the end of a soak, for a maintenance window, or because it is paused.

    ``reason`` is one of ``approval``, ``soak``, ``window``, ``pause``; ``phase`` is what comes next.
    """

    exit_code = 3
    default_safety = "The data is safe and both shapes are kept in step while it waits."

    def __init__(
        self, what: str, *, reason: str, phase: str, safety: str | None = None, remedy: str | None = None
    ) -> None:
        self.reason = reason
        self.phase = phase
        super().__init__(what, safety=safety, remedy=remedy)


class MigrationError(LockstepError):
    """The migration stopped; what was committed is recorded in the ledger and can be resumed or rolled back."""


class CannotConnect(MigrationError):
    """The server does not answer, or refuses the login. Never carries the URL's password."""

    default_safety = "What was committed before is recorded; nothing is half done."


class MissingPrivilege(MigrationError):
    """The role may not do something that the migration needs; ``grant`` is the statement that allows it."""

    default_safety = "Nothing was touched."

    def __init__(self, what: str, *, grant: str) -> None:
        self.grant = grant
        super().__init__(what, remedy=f"Have a superuser run:  {grant}")


class ReadOnlyServer(MigrationError):
    """The server is a standby, or its sessions are read-only."""

    default_safety = "Nothing was touched."


class PoolerRefused(MigrationError):
    """A transaction-pooling proxy stands between Lockstep and the server."""

    default_safety = "Nothing was touched."


class SchemaChanged(MigrationError):
    """The live schema's hash is not the one that the plan (or the resumed phase) expects."""

    def __init__(self, what: str, *, expected: str, found: str, remedy: str | None = None) -> None:
        self.expected = expected
        self.found = found
        super().__init__(what, remedy=remedy)


class HistoryChanged(MigrationError):
    """Flyway's history is not the one that the plan was made of; ``scripts`` are the files that it has run since."""

    default_safety = "Lockstep did nothing on it: what was done before is recorded, and can be taken back."

    def __init__(self, what: str, *, scripts: tuple[str, ...], remedy: str) -> None:
        self.scripts = scripts
        super().__init__(what, remedy=remedy)


class LockNotAcquired(MigrationError):
    """A lock was not granted within its timeout and tries; ``blockers`` describes who held it."""

    def __init__(self, what: str, *, table: str, blockers: tuple[str, ...], remedy: str | None = None) -> None:
        self.table = table
        self.blockers = blockers
        super().__init__(what, remedy=remedy)


class SnapshotHeld(MigrationError):
    """Transactions with an old snapshot did not end in time; ``holders`` describes them."""

    default_safety = "Nothing is half done: both shapes are intact, and the application goes on as before."

    def __init__(self, what: str, *, holders: tuple[str, ...], remedy: str) -> None:
        self.holders = holders
        super().__init__(what, remedy=remedy)


class RunnerBusy(MigrationError):
    """Another process runs this migration, or another migration of the same tables is unfinished."""

    default_safety = "This run did nothing; the other one is not disturbed."


class LeaseLost(MigrationError):
    """This process lost its lease: another runner took over and this one's fencing token is refused."""


class GateFailed(MigrationError):
    """A validation gate failed; ``gate`` names it, ``failures`` says which checks, how many rows, and sample keys."""

    def __init__(
        self, what: str, *, gate: str, failures: tuple[str, ...], corruption: bool, remedy: str | None = None
    ) -> None:
        self.gate = gate
        self.failures = failures
        self.corruption = corruption
        super().__init__(what, remedy=remedy)


class SyncFailing(MigrationError):
    """The mapping fails on rows of the table; ``failures`` counts them."""

    def __init__(self, what: str, *, table: str, failures: int, remedy: str | None = None) -> None:
        self.table = table
        self.failures = failures
        super().__init__(what, remedy=remedy)


class StepFailed(MigrationError):
    """A step failed with an SQL error; ``phase``, ``step`` and ``sqlstate`` say where and how."""

    def __init__(self, what: str, *, phase: str, step: str, sqlstate: str | None, remedy: str | None = None) -> None:
        self.phase = phase
        self.step = step
        self.sqlstate = sqlstate
        super().__init__(what, remedy=remedy)


class RehearsalFailed(MigrationError):
    """The plan failed on a clone with made-up rows."""

    default_safety = "Nothing was touched: it failed on a clone, which is gone."


class RollbackRefused(MigrationError):
    """Going back now would lose something, or needs the operator's word first."""
