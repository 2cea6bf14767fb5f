"""One runner at a time: an advisory lock, a lease with heartbeat, a fencing token, and every session on record.

Who wants to run a migration takes the advisory lock by try. If the lease of a former holder still stands, it waits
until that has expired (or its process is known to be dead), ends the holder's recorded sessions by pid *and* start,
waits until they are gone, and raises the fencing token, which waits for commits in flight. From then on whoever holds
the old number is refused by `Lease.fence`, the first statement of every transaction: time decides only when to take
over, never what is safe. Locks taken: the advisory lock for as long as the lease, the migration's row FOR SHARE in
every transaction.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psutil
import psycopg
import tenacity
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, class_row

from tasks.database.connection import Target, connect, limits, session_limits
from tasks.database.failures import connection_lost
from tasks.database.queries import queries
from tasks.database.records import Holder
from tasks.planning.errors import (
    CannotConnect,
    LeaseLost,
    MigrationError,
    MissingPrivilege,
    RunnerBusy,
    UnknownMigration,
)

Connection = psycopg.Connection[TupleRow]
_Result = TypeVar("_Result")

DEFAULT_SECONDS = 10.0
"""How long a lease stands without a heartbeat; five heartbeats fit in."""
VARIABLE = "LOCKSTEP_LEASE_SECONDS"
TAKEOVER_SECONDS = 60.0
"""How long to wait for a former holder's sessions to end, and for its commits in flight."""
RECONNECT_SECONDS = 60.0
"""How long a server may be away before a run gives up; a restart takes less."""
RECONNECTIONS = 20
"""Lost connections that one piece of work survives: a statement that takes the server down must not do so for ever."""
LOCK_TIMEOUT_MS = 5_000

_SQL = queries("lease")
_HOLDER = queries("ledger_queries")["holder"]


class SessionLost(psycopg.OperationalError):
    """The lease's own session is gone; handled like any lost connection (no SQLSTATE)."""


def lease_seconds() -> float:
    return float(os.environ.get(VARIABLE, DEFAULT_SECONDS))


def lock_key(name: str) -> int:
    """Return the advisory lock's key of a migration: 64 bits, signed."""
    return int.from_bytes(hashlib.sha256(f"lockstep {name}".encode()).digest()[:8], "big", signed=True)


class Lease:
    """The right to run one migration. Every session of the runner comes from `session`; `release` closes them all."""

    def __init__(
        self, target: Target, name: str, settings: Sequence[tuple[str, str]] = (), *, seconds: float | None = None
    ) -> None:
        self._target = target
        self._name = name
        self._settings = settings
        self.seconds = seconds if seconds is not None else lease_seconds()
        self.token = 0
        self._tried: set[int] = set()
        self._sessions: dict[str, Connection] = {}
        self._heart: Connection | None = None
        self._pulse: _Heartbeat | None = None

    def pin(self, settings: Sequence[tuple[str, str]]) -> None:
        """Set these settings in every session opened from now on; the ones open now are closed."""
        self._settings = settings
        for connection in self._sessions.values():
            connection.close()
        self._sessions.clear()

    def acquire(self) -> None:
        """Become the runner. Raises RunnerBusy, UnknownMigration, CannotConnect."""
        again = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(RECONNECTIONS),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=2),
            retry=tenacity.retry_if_exception(connection_lost),
            reraise=True,
        )
        again(self._acquire, own=None)

    def surviving(self, work: Callable[[], _Result]) -> _Result:
        """Do what may be done twice, again after every lost connection, and return its result."""
        for _ in range(RECONNECTIONS):
            try:
                self.check()
                return work()
            except psycopg.Error as error:
                if not connection_lost(error):
                    raise
            self.recover()
        return work()

    def recover(self) -> None:
        """Become the runner again after a lost connection, for up to a minute; all sessions are new afterwards.

        Raises LeaseLost if another runner has taken over meanwhile, CannotConnect if the server stays away.
        """
        self._close()
        again = tenacity.Retrying(
            stop=tenacity.stop_after_delay(RECONNECT_SECONDS),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=2),
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, CannotConnect) or connection_lost(error)),
            reraise=True,
        )
        again(self._acquire, own=self.token)

    def check(self) -> None:
        """Raise LeaseLost if another runner has taken over, SessionLost if the heartbeat's connection is gone."""
        if self._pulse is None or self._pulse.replaced:
            raise self._lost()
        if self._pulse.disconnected:
            raise SessionLost("the connection of the lease is gone")

    def fence(self, connection: Connection) -> None:
        """Lock the migration's row FOR SHARE until the transaction ends; raises LeaseLost if the token was raised."""
        self.require(self.ask(connection))

    def ask(self, connection: Connection) -> psycopg.Cursor[TupleRow]:
        """Do what `fence` does where statements are sent without waiting for answers; the answer is for `require`."""
        return connection.execute(_SQL["fence"], {"name": self._name})

    def require(self, answer: psycopg.Cursor[TupleRow]) -> None:
        """Wait for the answer of `ask`, before the transaction commits; raises LeaseLost if the token was raised."""
        row = answer.fetchone()
        if row is None or row[0] != self.token:
            raise self._lost()

    def session(self, role: str) -> Connection:
        """Return the runner's autocommit session for one purpose (``work``, ``ledger`` …), opened and recorded once.

        The server ends it when a transaction on it stays idle for the length of a lease: a frozen runner must not
        keep a lock on the application's tables.
        """
        present = self._sessions.get(role)
        if present is not None and not present.closed:
            return present
        connection = connect(self._target, role=f"{role}:{self._name}", settings=self._settings)
        try:
            _set_timeout(connection, "idle_in_transaction_session_timeout", self.seconds)
            with connection.transaction():
                limits(connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=LOCK_TIMEOUT_MS)
                self.fence(connection)
                self._record(connection, role)
        except BaseException:
            connection.close()
            raise
        self._sessions[role] = connection
        return connection

    def cancel(self) -> None:
        """Cancel whatever runs in the sessions; for a process that is told to end."""
        for connection in self._sessions.values():
            if connection.pgconn.transaction_status == TransactionStatus.ACTIVE:
                with contextlib.suppress(psycopg.Error):
                    connection.cancel_safe(timeout=2)

    def release(self) -> None:
        """Give the lease back and close every session; a server that is away lets the lease expire instead."""
        if self._pulse is not None:
            self._pulse.stop()
        with contextlib.suppress(psycopg.Error):
            if self._heart is not None and not self._heart.closed:
                self._heart.execute(_SQL["release"], {"name": self._name, "token": self.token})
        self._close()

    # --- taking --------------------------------------------------------------------------------------------------

    def _acquire(self, own: int | None) -> None:
        connection = connect(self._target, role=f"lease:{self._name}")
        try:
            milliseconds = int(max(self.seconds, 1) * 1000)
            session_limits(connection, lock_timeout_ms=milliseconds, statement_timeout_ms=milliseconds)
            if connection.info.server_version >= 140000:
                # A process that freezes while it takes over must not keep the advisory lock: nobody could end a
                # session that is not yet recorded.
                _set_timeout(connection, "idle_session_timeout", max(self.seconds, 1))
            self._wait_for_turn(connection, own)
            self._take(connection)
        except BaseException:
            connection.close()
            raise
        self._heart = connection
        self._pulse = _Heartbeat(connection, self._name, self.token, self.seconds)
        self._pulse.start()

    def _wait_for_turn(self, connection: Connection, own: int | None) -> None:
        """Return holding the advisory lock, with the former holder's sessions gone."""
        deadline = time.monotonic() + 3 * self.seconds + TAKEOVER_SECONDS
        while True:
            granted = self._ask(connection, "try_lock")
            token = self._ask(connection, "token")
            if token is None:
                raise UnknownMigration(f"No migration named {self._name!r} is recorded in this database.")
            holder = self._holder(connection)
            # A lower token is a new primary's that never heard of this claim: whoever holds that one decides.
            if own is not None and token > own and not self._is_own(holder, token):
                raise self._lost()
            if holder is None or holder.expired or self._is_own(holder, token) or _is_dead(holder):
                if holder is not None:
                    self._end_sessions(connection, holder)
                if granted or self._ask(connection, "try_lock"):
                    return
            elif not granted:
                raise RunnerBusy(
                    f"The migration {self._name!r} is being run by {holder}.",
                    remedy=f"Wait for it; if it was killed, its lease ends in {holder.remaining:.0f} seconds.",
                )
            else:
                # Its holder has lost the connection or was killed: until the lease ends it may come back.
                self._ask(connection, "unlock")
            if time.monotonic() > deadline:
                raise RunnerBusy(f"Another process is taking over the migration {self._name!r}.")
            time.sleep(min(0.2, self.seconds / 10))

    def _end_sessions(self, connection: Connection, holder: Holder) -> None:
        """Terminate the recorded backends of a former holder and wait until none is left."""
        deadline = time.monotonic() + TAKEOVER_SECONDS
        values = {"name": self._name, "token": holder.token}
        try:
            while rows := connection.execute(_SQL["terminate"], values).fetchall():
                if time.monotonic() > deadline:
                    raise RunnerBusy(
                        f"The former runner's sessions do not end: pid {', '.join(str(row[0]) for row in rows)}.",
                        remedy="Look at them in pg_stat_activity; they may wait for a disk or a network.",
                    )
                time.sleep(0.02)
        except psycopg.errors.InsufficientPrivilege:
            user = connection.info.user
            raise MissingPrivilege(
                f"The role {user!r} may not end the sessions of the former runner, {holder}.",
                grant=f'GRANT pg_signal_backend TO "{user}"',
            ) from None

    def _is_own(self, holder: Holder | None, token: int) -> bool:
        """Say whether this object took the lease, if only by a commit whose answer was lost."""
        return (
            holder is not None
            and holder.token == token
            and token in self._tried
            and holder.pid == os.getpid()
            and holder.host == socket.gethostname()
        )

    def _take(self, connection: Connection) -> None:
        least = max(self._tried, default=0)
        values = self._identity() | {"name": self._name, "seconds": self.seconds, "least": least}
        with connection.transaction():
            milliseconds = int(TAKEOVER_SECONDS * 1000)
            limits(connection, lock_timeout_ms=milliseconds, statement_timeout_ms=milliseconds)
            row = connection.execute(_SQL["take"], values).fetchone()
            if row is None:
                raise MigrationError(f"The migration {self._name!r} vanished from the ledger.")
            self.token = int(row[0])
            self._tried.add(self.token)
            self._record(connection, "lease")

    @staticmethod
    def _identity() -> dict[str, Any]:
        process = psutil.Process()
        return {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}

    def _record(self, connection: Connection, role: str) -> None:
        connection.execute(_SQL["record"], {"name": self._name, "token": self.token, "role": role})

    def _ask(self, connection: Connection, query: str) -> Any:
        row = connection.execute(_SQL[query], {"name": self._name, "key": lock_key(self._name)}).fetchone()
        return row[0] if row else None

    def _holder(self, connection: Connection) -> Holder | None:
        with connection.cursor(row_factory=class_row(Holder)) as cursor:
            return cursor.execute(_HOLDER, {"name": self._name}).fetchone()

    def _close(self) -> None:
        if self._pulse is not None:
            self._pulse.stop()
        for connection in (*self._sessions.values(), *([self._heart] if self._heart else [])):
            with contextlib.suppress(psycopg.Error):
                connection.close()
        self._sessions.clear()
        self._heart = self._pulse = None

    def _lost(self) -> LeaseLost:
        return LeaseLost(
            f"Another runner has taken over the migration {self._name!r}: fencing token {self.token} is refused.",
            safety="This process wrote nothing since; the other runner continues from the ledger.",
            remedy=f"Look at the other one:  lockstep status {self._name}",
        )


class _Heartbeat(threading.Thread):
    """Renews the lease on its own connection, which nothing else uses while it runs."""

    def __init__(self, connection: Connection, name: str, token: int, seconds: float) -> None:
        super().__init__(name=f"lockstep heartbeat {name}", daemon=True)
        self._connection = connection
        self._values = {"name": name, "token": token, "seconds": seconds}
        self._interval = seconds / 5
        self._end = threading.Event()
        self.replaced = False
        self.disconnected = False

    def run(self) -> None:
        while not self._end.wait(self._interval):
            try:
                renewed = self._connection.execute(_SQL["heartbeat"], self._values).rowcount
            except psycopg.Error:
                self.disconnected = True
                return
            if renewed != 1:
                self.replaced = True
                return

    def stop(self) -> None:
        self._end.set()
        self.join(timeout=5)


def _is_dead(holder: Holder) -> bool:
    """Say whether the holder was a process of this machine that is gone; False when that cannot be known."""
    if holder.host != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(holder.pid).create_time() - holder.started_at.timestamp()) > 1
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _set_timeout(connection: Connection, setting: str, seconds: float) -> None:
    connection.execute("SELECT set_config(%s, %s, false)", (setting, f"{int(seconds * 1000)}ms"))
