"""The forecast of a plan, from what is known of its database: its ledger, a calibration, its live facts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.rows import TupleRow
from pydantic import ValidationError

from tasks.database.calibration import SECONDS, calibrate, computing_ratio
from tasks.database.clone import scratch_server
from tasks.database.connection import Target, connect
from tasks.database.failures import connection_lost, described
from tasks.database.hours import measured
from tasks.database.kept_calibrations import keep, kept
from tasks.database.ledger import Ledger
from tasks.database.live import SAMPLE_SECONDS, look
from tasks.database.scratch import ScratchDatabases
from tasks.database.server import EmbeddedServer
from tasks.planning.catalog import Catalog
from tasks.planning.errors import MissingPrivilege
from tasks.planning.forecast import ForecastError, PlanForecast, forecast, forecast_error
from tasks.planning.live import LiveFacts, Unseen
from tasks.planning.names import TableName
from tasks.planning.paces import (
    LEAST_ROWS,
    Calibration,
    Paces,
    Run,
    estimated_width,
    learnt,
    paces,
    row_width,
    table_of,
    work_of,
)
from tasks.planning.plan import Plan

Connection = psycopg.Connection[TupleRow]

MOST_MIGRATIONS = 30
"""Reading one takes 7 ms, and what was long ago tells of smaller tables on another server."""
MOST_CALIBRATIONS = 2
"""The largest tables; a calibration takes three seconds."""


def earlier_runs(ledger: Ledger) -> tuple[Run, ...]:
    """Return the steps of this database's latest migrations that are done and were done in one go, with their rows.

    A backfill's rows are those that it counted; of other steps, those that the plan was made for.
    """
    records = ledger.latest(MOST_MIGRATIONS)
    return tuple(run for record in reversed(records) for run in _runs(ledger, record.name, record.plan))


def _runs(ledger: Ledger, name: str, plan: Plan) -> Iterator[Run]:
    counted = {progress.step: progress.rows_done for progress in ledger.progress(name)}
    for done in measured(plan, ledger.phases(name), ledger.steps(name)):
        yield Run(name, done.step, done.seconds, counted.get(done.step.id) or done.step.forecast.rows)


def known_paces(
    live: Connection, scratch: Connection | None, plan: Plan, facts: LiveFacts, *, seconds: float = SECONDS
) -> Paces:
    """Return what earlier runs here tell, and a calibration of about ``seconds`` a table of what they do not.

    Calibrated are the plan's largest tables, and none where even the built-in paces foretell moments. ``scratch`` is an
    autocommit connection to a database of its own on another server; None does without: nobody's server is worked for
    seconds to know a forecast. Raises psycopg's errors of a lost ``live`` connection only.
    """
    runs, unseen = _seen_runs(live)
    wanted = _unknown(plan, facts, runs) if scratch is not None else ()
    calibrations: tuple[Calibration, ...] = ()
    if scratch is not None and wanted:
        try:
            ratio = computing_ratio(live, scratch)
            calibrations = tuple(calibrate(scratch, facts, table, ratio=ratio, seconds=seconds) for table in wanted)
        except psycopg.Error as error:
            if live.closed:
                raise
            unseen += (Unseen(what="a calibration", why=f"it failed: {described(error)}"),)
    return paces(runs, calibrations, unseen, {table.name: row_width(table) for table in facts.tables})


def _seen_runs(live: Connection) -> tuple[tuple[Run, ...], tuple[Unseen, ...]]:
    try:
        return earlier_runs(Ledger(live)), ()
    except MissingPrivilege as error:
        return (), (Unseen(what="earlier runs", why=error.what, remedy=error.remedy or ""),)
    except psycopg.Error as error:
        if connection_lost(error):
            raise
        return (), (Unseen(what="earlier runs", why=f"the ledger cannot be read: {described(error)}"),)
    except ValidationError:
        return (), (Unseen(what="earlier runs", why="the ledger has plans of another version of Lockstep"),)


def remembered(live: Connection, catalog: Catalog) -> Paces:
    """Return what earlier runs and kept calibrations tell, without working for it: some tens of milliseconds."""
    widths = {table.name: estimated_width(table) for table in catalog.tables}
    runs, unseen = _seen_runs(live)
    return paces(runs, kept(live, widths), unseen, widths)


def _unknown(plan: Plan, facts: LiveFacts, runs: tuple[Run, ...]) -> tuple[TableName, ...]:
    """Return the large tables of which some work's pace is not known from the ledger, the largest first."""
    known = {work for _, work in learnt(runs)}
    tables = {
        table
        for phase in plan.phases
        for step in phase.steps
        if (work := work_of(step)) is not None and work not in known and (table := table_of(step)) is not None
    }
    rows = {name: found.known_rows for name in tables if (found := facts.table(name)) is not None}
    large = [name for name in rows if rows[name] >= LEAST_ROWS]
    return tuple(sorted(large, key=lambda name: (-rows[name], name))[:MOST_CALIBRATIONS])


def foresee(
    live: Connection, scratch: Connection | None, plan: Plan, facts: LiveFacts, *, seconds: float = SECONDS
) -> PlanForecast:
    """Return what the plan will take on this database, by everything that `known_paces` knows of it."""
    return forecast(plan, facts, known_paces(live, scratch, plan, facts, seconds=seconds))


def survey(target: Target, plan: Plan, *, sample_seconds: float = SAMPLE_SECONDS) -> tuple[LiveFacts, PlanForecast]:
    """Look at the plan's database and foretell what the plan takes there: about ten seconds, most of them waiting.

    The calibration is made on the embedded server of schema clones, in a database of its own.
    """
    with connect(target, role="plan") as live:
        facts = look(live, sample_seconds=sample_seconds)
        with scratch_server(facts.server_version // 10_000) as server, _database(server) as scratch:
            expected = foresee(live, scratch, plan, facts)
        keep(live, expected.paces.calibrations)
        return facts, expected


@contextmanager
def _database(server: EmbeddedServer) -> Iterator[Connection]:
    """A database with nothing in it; by its name the next planner finds it if this one is killed."""
    databases = ScratchDatabases(server)
    try:
        with connect(databases.create(), role="scratch") as scratch:
            yield scratch
    finally:
        databases.drop_all()


def error_of(ledger: Ledger, migration: str) -> ForecastError:
    """Return how wrong the forecast of a migration was, by what the ledger says its steps took.

    Raises UnknownMigration.
    """
    record = ledger.known_migration(migration)
    return forecast_error(record.plan, measured(record.plan, ledger.phases(migration), ledger.steps(migration)))
