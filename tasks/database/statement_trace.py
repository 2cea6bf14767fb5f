"""The facts of every statement of some files: each is run on a clone, and the server is asked what it did.

A file's transaction is run twice. First as it is, for the locks that it *holds* by then, and rolled back; then
statement by statement, each committed, for what is the statement's *own*, and for the next file to find. What cannot
be run apart (SAVEPOINT, a temporary table that falls at the commit …) is run once, as a whole; its own locks are
those that it adds. What runs outside a transaction is watched from another session (`tasks.database.outside`).

Only clones are touched: nothing of it reaches a live database.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Protocol

import psycopg
from psycopg.rows import TupleRow

from tasks.database.catalog import snapshot
from tasks.database.connection import Target, connect, limits, session_limits
from tasks.database.failures import described
from tasks.database.following import difference, followed, followed_outside
from tasks.database.observation import (
    SQL,
    Observation,
    Observer,
    Relations,
    number,
    read_relations,
    relation_of,
    speak_plainly,
    strongest,
)
from tasks.database.outside import run_outside
from tasks.database.statement_facts import Frame, index_locks, named_locks, work_of
from tasks.planning import parser
from tasks.planning.catalog import Catalog
from tasks.planning.facts import Refusal, StatementFacts
from tasks.planning.names import TableName
from tasks.planning.outside import runs_outside
from tasks.planning.plan import LockMode
from tasks.planning.server_wide import made_roles, reaching, why_not_run
from tasks.planning.statements import Statement
from tasks.planning.transactions import SourceFile, Unit, control, units

Connection = psycopg.Connection[TupleRow]
Locks = Mapping[TableName, LockMode]

LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 60_000
"""On a clone nothing waits and nothing is long: these only bound what should not happen."""

_NEEDS_WHOLE = frozenset({"set_constraints", "declare_cursor", "fetch", "close_portal"})
_LOCAL_EFFECT = re.compile(r"\bset_config\b.*\btrue\b|\bset\s+local\b|\bon\s+commit\b", re.IGNORECASE | re.DOTALL)
_SET_TRANSACTION = re.compile(r"set\s+(local\s+|session\s+)?(transaction|session\s+characteristics)\b", re.IGNORECASE)


_NO_TRANSACTION = (psycopg.errors.InvalidTransactionTermination, psycopg.errors.ActiveSqlTransaction)


class Scratch(Protocol):
    """Where databases come from that are thrown away, all of the same schema."""

    def disposable(self) -> Target:
        """Return one more database with the schema as it is before the first file."""
        ...

    def make_roles(self, names: Collection[str]) -> None:
        """See to it that roles are there, without rights, if the server is there for nothing else."""
        ...


@dataclass(frozen=True, slots=True)
class Untraced:
    """A statement without facts: an earlier one of its file was refused."""

    file: str
    statement: Statement


@dataclass(frozen=True, slots=True)
class FilesTrace:
    """What became of the files, in order. A refused statement has facts that say so; those after it have none."""

    facts: tuple[StatementFacts, ...]
    untraced: tuple[Untraced, ...]
    before: Catalog
    """The schema before the first file."""


def trace_files(files: Sequence[SourceFile], scratch: Scratch, settings: Sequence[tuple[str, str]]) -> FilesTrace:
    """Run the statements of the files, one file after the other, and return what each does.

    A file whose statement is refused leaves nothing behind, unless it ran without a transaction; the next file finds
    what the earlier ones left. ``settings`` (search_path, TimeZone …) are those of every file's session.
    """
    statements = tuple(statement for file in files for statement in file.statements)
    scratch.make_roles(made_roles(statements))
    with closing(_Tracer(scratch, tuple(settings), statements)) as tracer:
        return tracer.run(files)


class _Refused(Exception):
    """The server refused the statement at this position of its file."""

    def __init__(self, position: int, error: psycopg.Error) -> None:
        self.position = position
        self.error = error
        self.catalog: Catalog | None = None
        """What the statement found, where the clone does not say it any more."""
        self.held: Locks = {}
        super().__init__(str(error))


class _Tracer:
    """One clone, one session on it at a time, and what is known of both."""

    def __init__(
        self, scratch: Scratch, settings: tuple[tuple[str, str], ...], statements: Sequence[Statement]
    ) -> None:
        self._scratch = scratch
        self._settings = settings
        self._target = scratch.disposable()
        self._done: list[tuple[SourceFile, Unit]] = []
        self._facts: list[StatementFacts] = []
        self._first = 1
        self._spoilt = False
        """Whether the clone holds what a file left that was refused."""
        self._in_transaction = False
        self._connection = self._connected()
        self._observer = Observer(self._connection)
        self._known = frozenset(self._observer.relations)
        self._catalog = self._start = snapshot(self._connection)
        self._reaching = reaching(self._start, statements)
        self._has_rows = bool(number(self._connection, "has_rows"))

    def close(self) -> None:
        self._connection.close()

    def run(self, files: Sequence[SourceFile]) -> FilesTrace:
        untraced: list[Untraced] = []
        for file in files:
            before = len(self._facts)
            self._file(file)
            missing = file.statements[len(self._facts) - before :]
            untraced.extend(Untraced(file.name, statement) for statement in missing)
            self._first += len(file.statements)
        return FilesTrace(tuple(self._facts), tuple(untraced), self._start)

    def _file(self, file: SourceFile) -> None:
        if self._spoilt:
            self._rebuild(None)
        else:
            self._reopen(self._observer.relations)
        for unit in units(file):
            try:
                self._unit(file, unit)
            except _Refused as refused:
                self._refuse(file, refused)
                return
            self._done.append((file, unit))

    # -------------------------------------------------------------------------------------------- sessions

    def _connected(self) -> Connection:
        connection = connect(self._target, role="oracle", settings=self._settings)
        speak_plainly(connection)
        session_limits(connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
        return connection

    def _reopen(self, relations: Relations | None) -> None:
        """Begin a session for a new file: it must not find the settings and temporary tables of the last one."""
        self._connection.close()
        self._connection = self._connected()
        self._observer = Observer(self._connection, relations)
        self._known = frozenset(self._observer.relations)

    def _rebuild(self, current: SourceFile | None) -> None:
        """Make the clone anew and run on it what was done, ``current`` being the file that goes on then."""
        self._target = self._scratch.disposable()
        last: SourceFile | None = None
        for file, unit in self._done:
            if file is not last:
                self._reopen(None)
                last = file
            self._repeat(file, unit)
        if current is None or current is not last:
            self._reopen(None)
        self._observer.relations = read_relations(self._connection)
        self._catalog = snapshot(self._connection)
        self._spoilt = False

    def _repeat(self, file: SourceFile, unit: Unit) -> None:
        with self._transaction(unit) if unit.in_transaction else nullcontext():
            for position in unit.positions:
                statement = file.statements[position]
                if not self._is_idle(statement) or control(statement) == "savepoint":
                    # A failure of the first time (CONCURRENTLY that leaves an invalid index) is one again.
                    with suppress(psycopg.Error) if not unit.in_transaction else nullcontext():
                        self._connection.execute(statement.sql.encode())

    @contextmanager
    def _transaction(self, unit: Unit) -> Iterator[None]:
        """Run a block in a transaction that ends as the file says. SAVEPOINT and the like are the file's own."""
        self._connection.execute("BEGIN")
        try:
            limits(self._connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT" if unit.committed else "ROLLBACK")

    # -------------------------------------------------------------------------------------------- transactions

    def _unit(self, file: SourceFile, unit: Unit) -> None:
        self._in_transaction = unit.in_transaction
        if not unit.in_transaction:
            self._single(file, unit.positions[0])
            return
        at_work = [position for position in unit.positions if not self._is_idle(file.statements[position])]
        if not unit.committed or any(_needs_whole(file.statements[position]) for position in unit.positions):
            self._whole(file, unit)
            return
        held, refused = self._together(file, unit) if len(at_work) > 1 else ({}, None)
        begun = len(self._facts)
        try:
            with self._local_settings(file, unit):
                for position in unit.positions:
                    if refused is not None and position == refused.position:
                        raise refused
                    self._alone(file, position, held.get(position))
                    self._spoilt = self._spoilt or refused is not None
        except _Refused as failed:
            if failed is refused or len(at_work) == 1:
                raise
            # What went well in its transaction cannot be run apart from it.
            del self._facts[begun:]
            self._rebuild(file)
            self._whole(file, unit)

    def _together(self, file: SourceFile, unit: Unit) -> tuple[dict[int, Locks], _Refused | None]:
        """Run a transaction as it is and roll it back; return what it holds at each statement, and where it fails."""
        held: dict[int, Locks] = {}
        relations = dict(self._observer.relations)
        locks: Locks = {}
        at_work = [position for position in unit.positions if not self._is_idle(file.statements[position])]
        try:
            with self._transaction(replace(unit, committed=False)):
                since = {"since": number(self._connection, "now")}
                for position in unit.positions:
                    if position in at_work:
                        self._execute(position, file.statements[position].sql)
                        if position == at_work[-1]:
                            self._settle(position)
                        found = strongest(self._connection.execute(SQL["locks"]).fetchall())
                        locks = named_locks(found, self._known, relations)
                        touched = self._connection.execute(SQL["touched"], since).fetchall()
                        relations |= {row[0]: relation_of(row) for row in touched}
                    held[position] = locks
        except _Refused as refused:
            refused.held = locks
            return held, refused
        return held, None

    def _alone(self, file: SourceFile, position: int, held: Locks | None) -> None:
        """Run one statement, commit it, and keep its facts."""
        statement = file.statements[position]
        if self._is_idle(statement):
            self._keep(file, position, held=held or {})
            return
        begun = self._catalog
        try:
            with self._connection.transaction():
                limits(self._connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
                self._observe(file, position, held, _for_session(statement), {})
                self._settle(position)
        except _Refused:
            # It may have run, and been refused by what waited for its end.
            self._back_to(begun)
            raise

    def _whole(self, file: SourceFile, unit: Unit) -> None:
        """Run a transaction as it is, keep the facts of its statements, and end it as it says."""
        begun = self._catalog
        locks: dict[int, LockMode] = {}
        try:
            with self._transaction(unit):
                for position in unit.positions:
                    statement = file.statements[position]
                    if not self._is_idle(statement):
                        locks = self._observe(file, position, None, statement.sql, locks)
                        continue
                    if control(statement) == "savepoint":
                        self._execute(position, statement.sql)
                        self._back_to(snapshot(self._connection))
                        locks = strongest(self._connection.execute(SQL["locks"]).fetchall())
                    self._keep(file, position, held=named_locks(locks, self._known, self._observer.relations))
                self._settle(unit.positions[-1])
        except _Refused as refused:
            refused.catalog = self._catalog
            refused.held = named_locks(locks, self._known, self._observer.relations)
            self._back_to(begun)
            raise
        if not unit.committed:
            self._back_to(begun)

    def _back_to(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._observer.relations = read_relations(self._connection)

    def _single(self, file: SourceFile, position: int) -> None:
        """Run a statement that is not in a transaction of the file."""
        statement = file.statements[position]
        if self._is_idle(statement) or _is_local(statement):
            self._keep(file, position, held={})
            return
        if not runs_outside(statement):
            try:
                self._alone(file, position, None)
            except _Refused as refused:
                # A procedure or block that commits.
                if not isinstance(refused.error, _NO_TRANSACTION):
                    raise
            else:
                return
        earlier, before = dict(self._observer.relations), self._catalog
        try:
            seen = run_outside(self._connection, self._target, statement, self._observer)
        except psycopg.Error as error:
            self._back_to(snapshot(self._connection))
            raise _Refused(position, error) from None
        self._observer.follow(seen)
        now = self._observer.relations
        whole = not runs_outside(statement)
        self._catalog = snapshot(self._connection) if whole else followed_outside(self._connection, before, seen, now)
        frame = Frame(self._known, earlier, now, before, self._catalog, self._has_rows)
        self._keep(file, position, named_locks(seen.locks, self._known, earlier), seen, frame)

    # -------------------------------------------------------------------------------------------- one statement

    def _is_idle(self, statement: Statement) -> bool:
        """Whether a statement is not run by itself: a transaction's bounds, and what nobody may run here."""
        if control(statement) is not None or why_not_run(statement, self._reaching) is not None:
            return True
        return statement.kind == "set" and _SET_TRANSACTION.match(statement.sql) is not None

    def _execute(self, position: int, text: str) -> None:
        try:
            self._connection.execute(text.encode())
        except psycopg.Error as error:
            raise _Refused(position, error) from None

    def _settle(self, position: int) -> None:
        """Let constraints and triggers that wait for the commit speak up now, where the statement can be named."""
        try:
            self._connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        except psycopg.Error as error:
            raise _Refused(position, error) from None

    def _observe(
        self, file: SourceFile, position: int, held: Locks | None, text: str, taken: Mapping[int, LockMode]
    ) -> dict[int, LockMode]:
        """Run a statement in the open transaction and keep its facts; return all the locks that there are then.

        ``taken`` are those that there were before; ``held`` is what to say of the file's transaction, None where it
        is this one.
        """
        before, earlier = self._catalog, dict(self._observer.relations)
        self._observer.begin()
        self._execute(position, text)
        seen = self._observer.end()
        self._observer.follow(seen)
        kind = file.statements[position].kind
        self._catalog = followed(self._connection, before, seen, earlier, self._observer.relations, kind)
        frame = Frame(self._known, earlier, self._observer.relations, before, self._catalog, self._has_rows)
        own = {oid: mode for oid, mode in seen.locks.items() if taken.get(oid) != mode}
        if held is None:
            held = named_locks(seen.locks, self._known, earlier)
        self._keep(file, position, held, replace(seen, locks=own), frame)
        return dict(seen.locks)

    def _keep(
        self,
        file: SourceFile,
        position: int,
        held: Locks,
        seen: Observation | None = None,
        frame: Frame | None = None,
    ) -> None:
        """Keep the facts of a statement; without an observation it is one that does nothing here."""
        statement = file.statements[position]
        facts = StatementFacts(
            index=self._first + position,
            file=file.name,
            statement=statement,
            in_transaction=self._in_transaction,
            own={},
            held=held,
            rewrites=(),
            index_builds=(),
            scans=(),
            validations=(),
            changes=(),
            before=self._catalog,
            after=self._catalog,
            not_run=why_not_run(statement, self._reaching),
            beside=file.beside(position),
            server_major=self._connection.info.server_version // 10_000,
        )
        if seen is not None and frame is not None:
            work = work_of(seen, frame, statement.kind)
            facts = replace(
                facts,
                own=named_locks(seen.locks, self._known, frame.earlier),
                index_locks=index_locks(seen.locks, self._known, frame.earlier),
                rewrites=work.rewrites,
                index_builds=work.index_builds,
                scans=work.scans,
                validations=work.validations,
                changes=difference(frame.before, frame.after),
                before=frame.before,
                after=frame.after,
            )
        self._facts.append(facts)

    def _refuse(self, file: SourceFile, refused: _Refused) -> None:
        if self._facts and self._facts[-1].index == self._first + refused.position:
            # Refused at the end of its transaction: what it did by then does not count.
            self._facts.pop()
        catalog, self._catalog = self._catalog, refused.catalog or self._catalog
        self._keep(file, refused.position, refused.held)
        self._catalog = catalog
        self._facts[-1] = replace(self._facts[-1], refused=refusal(file, refused.position, refused.error))

    @contextmanager
    def _local_settings(self, file: SourceFile, unit: Unit) -> Iterator[None]:
        """Take back at the end of a transaction what SET LOCAL set, which `_alone` sets for the session."""
        local = [item for position in unit.positions if _is_local(item := file.statements[position])]
        names = [str(parser.parse(item.sql)[0].node.name) for item in local]
        known = [
            (name, self._connection.execute("SELECT current_setting(%s, true)", (name,)).fetchone()) for name in names
        ]
        try:
            yield
        finally:
            for name, row in known:
                self._connection.execute("SELECT set_config(%s, %s, false)", (name, row[0] if row else None))


def refusal(file: SourceFile, position: int, error: psycopg.Error) -> Refusal:
    """Return what the server said of a statement, without values of rows, and where in the file it points to."""
    said = error.diag
    inside = int(said.statement_position) - 1 if said.statement_position else 0
    line, column = file.place(position, inside)
    primary = said.message_primary or " ".join(str(error).split()) or type(error).__name__
    # The detail of a broken constraint names the row's values; so does the message itself where no text is at fault.
    shows_values = (error.sqlstate or "")[:2] in ("22", "23")
    if isinstance(error, psycopg.errors.DataError) and not said.statement_position:
        primary = described(error)
    detail = f" ({said.message_detail})" if said.message_detail and not shows_values else ""
    statement = file.statements[position]
    hint = said.message_hint
    if isinstance(error, psycopg.errors.ActiveSqlTransaction) and file.is_flyway and runs_outside(statement):
        hint = f"Flyway runs it in a transaction unless {file.name}.conf says executeInTransaction=false."
    return Refusal(f"{primary}{detail}", error.sqlstate, line, column, hint)


def _needs_whole(statement: Statement) -> bool:
    """Whether a statement leaves something for the rest of its transaction only, or takes a part of it back."""
    if control(statement) == "savepoint" or statement.kind in _NEEDS_WHOLE:
        return True
    return statement.kind != "set" and _LOCAL_EFFECT.search(statement.sql) is not None


def _is_local(statement: Statement) -> bool:
    return statement.kind == "set" and bool(parser.parse(statement.sql)[0].node.is_local)


def _for_session(statement: Statement) -> str:
    """Return what to run in a transaction of its own: SET LOCAL has to last for the statements after it."""
    if not _is_local(statement):
        return statement.sql
    word = next(token for token in parser.tokens(statement.sql) if token.word == "LOCAL")
    source = statement.sql.encode()
    return (source[: word.start] + source[word.end :]).decode()
