"""The oracle: PostgreSQL itself says what the user's SQL means, and proves the plan that is made of it.

Clone the schema, run the change there, compare the catalogs, let the server type-check `up` and `down`, try them on
real rows (read-only), build the plan, prove it on further clones. The live database is only read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import psycopg
from psycopg.rows import TupleRow

from tasks.database import ledger
from tasks.database.catalog import snapshot
from tasks.database.clone import SchemaClone, scratch_place
from tasks.database.connection import Target, connect
from tasks.database.gauge import Gauge, Work, ask
from tasks.database.inspection import check_privileges, require_usable
from tasks.database.mappings import Mappings
from tasks.database.pinned import PINNED, search_path
from tasks.database.proof import prove
from tasks.database.retyping import direct_retypes
from tasks.database.server import EmbeddedServer
from tasks.database.shapes import stages
from tasks.database.snapshots import require_sight
from tasks.database.steadiness import volatile_defaults
from tasks.database.trace import Trace, trace_change
from tasks.planning import alternatives
from tasks.planning.catalog import Catalog
from tasks.planning.data_changes import data_changes, with_populated
from tasks.planning.errors import RunnerBusy, SpecError
from tasks.planning.flyway.rows import with_rows
from tasks.planning.intent import intent_of
from tasks.planning.meaning import changes, settled
from tasks.planning.names import DUE_COLUMN, PENDING_COLUMN, TableName
from tasks.planning.objects.effects import roles_of
from tasks.planning.objects.meant import Meant
from tasks.planning.objects.privileges import all_privileges, grantees
from tasks.planning.plan import Note, Plan
from tasks.planning.planner import all_drafts, make_plan, touched_tables
from tasks.planning.retyping import require_word, retyped_columns
from tasks.planning.schema_hash import schema_hash
from tasks.planning.spec import LoadedSpec
from tasks.planning.statements import Statement, search_path_of
from tasks.planning.states import MigrationState
from tasks.planning.strategies.expand_contract.moved import moved_columns, require_references
from tasks.planning.throttle import Limits, blind, reasons


def plan(loaded: LoadedSpec, target: Target) -> Plan:
    """Return the proven plan of a spec on a live database; an empty one when the change is already in place.

    Raises:
        SpecError, Unsupported: exit 2, nothing was touched.
        CannotConnect, ReadOnlyServer, PoolerRefused, MissingPrivilege: exit 1, nothing was touched.
    """
    parsed = loaded.statements()
    facts = require_usable(target)
    with connect(target, role="plan") as live:
        ledger.Ledger(live).refuse_by_hand(loaded.spec.name)
        # Of a Flyway folder its history says what is done: the same statement may come in another file once more.
        done = _already_in_place(loaded, target, live) if loaded.flyway is None else None
        if done is not None:
            return done
        settings = (*PINNED, ("search_path", search_path(live)))
        has_ledger = ledger.is_installed(live)
    with scratch_place(target, facts) as place, SchemaClone(target, place) as clone:
        trace = _meaning(clone, parsed, settings)
        before, after = _as_live(trace.before, clone.live), trace.after
        meant = Meant(changes(trace.before, trace.after), trace.effects)
        intent = intent_of(loaded, target.name, before, settings)
        volatile = volatile_defaults(clone, before, after, settings)
        data = data_changes(parsed, before, after, search_path_of(settings), volatile)
        intent = replace(intent, wanted=with_populated(intent.wanted, data.populated))
        tables = touched_tables(intent, meant, data)
        if has_ledger:  # where there is none, it is somebody's own column of that name
            _require_unmarked(before, tables)
        retyped = retyped_columns(before, after)
        require_word(retyped, intent.words)
        direct = direct_retypes(clone, settings, retyped, after, intent.using, intent.wanted)
        found = all_drafts(intent, before, after, tables, direct)
        moved = moved_columns(intent.name, found)
        require_references(after, moved)
        mappings = Mappings(clone, parsed, intent, before, after)
        with connect(target, role="plan", settings=settings) as live:
            check_privileges(live, (*tables, *meant.touched))
            if moved:
                require_sight(live)
            canonical = mappings.canonical(found)
            notes = (
                *_tried_on(place, facts.major),
                *mappings.probe(live, found, canonical),
                *_foreseen(target, intent.throttle),
            )
        shapes = stages(clone, parsed, settings, before, after, moved)
        made = with_rows(make_plan(intent, shapes, meant, found, canonical, notes, direct, data), loaded.flyway)
        alternatives.require(loaded.spec.strategy, made)
        return prove(made, clone, after)


def _tried_on(place: EmbeddedServer | Target, major: int) -> Iterator[Note]:
    """Say where the change was tried, where that is not the embedded server of the live one's major version."""
    if isinstance(place, Target):
        yield Note(
            severity="INFO",
            text="The schema needs an extension that the embedded server lacks: the change was tried in scratch "
            "databases on the live server itself, which are dropped again.",
        )
    elif place.major != major:
        yield Note(
            severity="INFO",
            text=f"The change was tried on PostgreSQL {place.major}, the embedded version next to {major}.",
        )


def nothing_pending(loaded: LoadedSpec, target: Target) -> Plan:
    """Return the empty plan of a Flyway folder of which the database has every file. Raises as `plan`."""
    return Plan(
        name=loaded.spec.name,
        database=target.name,
        strategy="direct",
        why="Flyway would run no file of the folder here.",
        change="",
        change_hash=loaded.change_hash,
        server_version=require_usable(target).version,
        phases=(),
    )


def _foreseen(target: Target, throttle: Limits) -> tuple[Note, ...]:
    """Return what the throttle would say now, and what it cannot see. Raises SpecError for SQL that gives no answer."""
    with connect(target, role="plan") as connection:
        load = Gauge().look(connection, Work(), ())
        _, unanswered = ask(connection, throttle.sql)
    if unanswered:
        raise SpecError(f"throttle: {'; '.join(unanswered)}.", remedy="Each question returns one row: true or false.")
    notes = [
        Note(severity="WARNING", text=f"The work would have to wait now: {reason}.")
        for reason in reasons(throttle, load)
    ]
    if not load.sees_all and (unseen := blind(throttle)):
        text = (
            f"The throttle cannot watch {', '.join(unseen)}: the role sees neither standbys nor other roles' sessions. "
            "GRANT pg_monitor lets it."
        )
        notes.append(Note(severity="INFO", text=text))
    return tuple(notes)


def _require_unmarked(before: Catalog, tables: Collection[TableName]) -> None:
    """A table with Lockstep's marks is in the middle of another migration, which the ledger may not know."""
    for name in tables:
        table = before.table(name)
        if table is not None and any(table.column(mark) is not None for mark in (PENDING_COLUMN, DUE_COLUMN)):
            raise RunnerBusy(
                f"{name} is in the middle of another migration: it has Lockstep's marks in its rows.",
                remedy="End that one first, or take it back: lockstep status, or the scripts of its runbook.",
            )


def _already_in_place(loaded: LoadedSpec, target: Target, live: psycopg.Connection[TupleRow]) -> Plan | None:
    """Return an empty plan when this very change is finished and the live schema is still what it led to."""
    stored = ledger.Ledger(live).migration(loaded.spec.name)
    if stored is None or stored.state not in (MigrationState.FINISHED, MigrationState.CLEANED):
        return None
    if stored.change_hash != loaded.change_hash:
        return None
    if schema_hash(snapshot(live), stored.plan.scope) != stored.plan.schema_target:
        return None
    return stored.plan.model_copy(
        update={"phases": (), "why": "The change is already in place.", "database": target.name}
    )


def _meaning(clone: SchemaClone, parsed: Sequence[Statement], settings: Sequence[tuple[str, str]]) -> Trace:
    """Run the change on a clone that has the live privileges, so that what is granted and revoked shows there."""
    owners = {table.owner for table in clone.live.tables}
    clone.require_roles(roles_of(parsed) | grantees(clone.live) | owners)
    with connect(clone.fresh(), role="oracle") as connection:
        for statement in all_privileges(clone.live):
            connection.execute(statement.encode())
        trace = trace_change(connection, parsed, settings)
    return replace(trace, after=settled(trace.before, trace.after))


def _as_live(before: Catalog, live: Catalog) -> Catalog:
    """Return the clone's catalog with what a clone does not have: sizes, owners, privileges, publications, version."""
    tables = []
    for table in before.tables:
        found = live.table(table.name)
        if found is not None:
            published = tuple(item for item in found.dependents if item.kind == "publication")
            fields = ("rows", "bytes", "toast_bytes", "attributes", "owner", "grants")
            kept = {field: getattr(found, field) for field in fields}
            table = table.model_copy(update={**kept, "dependents": (*table.dependents, *published)})
        tables.append(table)
    return before.model_copy(update={"tables": tuple(tables), "server_version": live.server_version})
