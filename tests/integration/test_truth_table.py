"""The trace against the truth table: 86 statements, measured by hand on PostgreSQL 15 on a filled schema.

In tests/data ``ddl_locks_setup.sql`` is the schema, and ``ddl_locks_measured.jsonl`` says what each statement was seen
to do in a transaction that was rolled back: locks (``[i]`` an index, ``[m]`` a materialized view; ACCESS SHARE is left
out), tables rewritten, sequential scans by table, and what the server said at DEBUG1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tasks.database.connection import Target
from tasks.database.schema_file import SchemaFile
from tasks.database.scratch import ScratchDatabases
from tasks.database.server import EmbeddedServer
from tasks.database.statement_trace import trace_files
from tasks.planning.facts import StatementFacts
from tasks.planning.statements import read_statements
from tasks.planning.transactions import SourceFile
from tests.conftest import AnyServer, server_major

DATA = Path(__file__).parents[1] / "data"
SETUP = (DATA / "ddl_locks_setup.sql").read_text()
MEASURED: tuple[dict[str, Any], ...] = tuple(
    json.loads(line) for line in (DATA / "ddl_locks_measured.jsonl").read_text().splitlines()
)
SETTINGS = (("search_path", "lab, public"), ("TimeZone", "UTC"))

BUILDING = re.compile(r'building index "(.+)" on table "(.+)" ')

STAND_INS = """
CREATE TYPE public.citext;
CREATE FUNCTION public.citextin(cstring) RETURNS public.citext AS 'textin' LANGUAGE internal IMMUTABLE STRICT;
CREATE FUNCTION public.citextout(public.citext) RETURNS cstring AS 'textout' LANGUAGE internal IMMUTABLE STRICT;
CREATE TYPE public.citext (INPUT = public.citextin, OUTPUT = public.citextout, LIKE = text, COLLATABLE = true);
CREATE CAST (public.citext AS text) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (text AS public.citext) WITHOUT FUNCTION AS ASSIGNMENT;
CREATE FUNCTION public.citext_cmp(public.citext, public.citext) RETURNS int LANGUAGE sql IMMUTABLE STRICT
    AS 'SELECT bttextcmp(lower($1::text), lower($2::text))';
CREATE FUNCTION public.citext_eq(public.citext, public.citext) RETURNS bool LANGUAGE sql IMMUTABLE STRICT
    AS 'SELECT lower($1::text) = lower($2::text)';
CREATE FUNCTION public.citext_lt(public.citext, public.citext) RETURNS bool LANGUAGE sql IMMUTABLE STRICT
    AS 'SELECT lower($1::text) < lower($2::text)';
CREATE FUNCTION public.citext_le(public.citext, public.citext) RETURNS bool LANGUAGE sql IMMUTABLE STRICT
    AS 'SELECT lower($1::text) <= lower($2::text)';
CREATE FUNCTION public.citext_gt(public.citext, public.citext) RETURNS bool LANGUAGE sql IMMUTABLE STRICT
    AS 'SELECT lower($1::text) > lower($2::text)';
CREATE FUNCTION public.citext_ge(public.citext, public.citext) RETURNS bool LANGUAGE sql IMMUTABLE STRICT
    AS 'SELECT lower($1::text) >= lower($2::text)';
CREATE OPERATOR public.< (LEFTARG = public.citext, RIGHTARG = public.citext, FUNCTION = public.citext_lt);
CREATE OPERATOR public.<= (LEFTARG = public.citext, RIGHTARG = public.citext, FUNCTION = public.citext_le);
CREATE OPERATOR public.= (LEFTARG = public.citext, RIGHTARG = public.citext, FUNCTION = public.citext_eq);
CREATE OPERATOR public.>= (LEFTARG = public.citext, RIGHTARG = public.citext, FUNCTION = public.citext_ge);
CREATE OPERATOR public.> (LEFTARG = public.citext, RIGHTARG = public.citext, FUNCTION = public.citext_gt);
CREATE OPERATOR CLASS public.citext_ops DEFAULT FOR TYPE public.citext USING btree AS
    OPERATOR 1 public.<, OPERATOR 2 public.<=, OPERATOR 3 public.=, OPERATOR 4 public.>=, OPERATOR 5 public.>,
    FUNCTION 1 public.citext_cmp(public.citext, public.citext);
"""
"""The part of citext that the schema needs, for the embedded server, which has no contrib: the same casts and an
operator class of its own, which is what decides whether citext to text rewrites the table or rebuilds the index."""

SETUP_WITHOUT_CONTRIB = re.sub(r"CREATE EXTENSION[^;]*;", "", SETUP).replace(
    "CREATE TYPE mood", f"{STAND_INS}CREATE TYPE mood", 1
)

RANGES = ("EXCLUDE USING gist (id WITH =)", "EXCLUDE USING gist (int4range(id, id, '[]') WITH =)")
"""What stands in for btree_gist: the operator class of ranges that is the server's own."""


@dataclass(frozen=True)
class Difference:
    """Where another version of PostgreSQL, or another way of running a statement, is right too."""

    statement: str
    reason: str
    changed: Mapping[str, Any]
    """The fields that are others, in the form of `told`; they take the place of the measured ones."""
    first: int = 13
    last: int = 99
    """The major versions that it holds for."""
    apart: bool = False
    """Whether it holds only where the statement is committed by itself."""


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "VACUUM t",
        "It was measured inside a transaction. By itself in its file it runs outside one, as Flyway would run it.",
        {"error": None, "locks": {"t": "ShareUpdateExclusive"}, "rewrites": [], "builds": [], "scans": []},
        apart=True,
    ),
    Difference(
        "ALTER TABLE p ADD CONSTRAINT f1 FOREIGN KEY (k) REFERENCES u(id) NOT VALID",
        "PostgreSQL 18 takes NOT VALID foreign keys of partitioned tables, and with it no row is read.",
        {
            "error": None,
            "locks": dict.fromkeys(("p", "p1", "pdef", "u"), "ShareRowExclusive"),
            "rewrites": [], "builds": [], "scans": [],
        },
        first=18,
    ),
    Difference(
        "ALTER TABLE p DETACH PARTITION p1",
        "Up to PostgreSQL 13 the partition itself is locked less.",
        {"locks": {"p": "AccessExclusive", "p1": "ShareUpdateExclusive", "pdef": "AccessExclusive"}},
        last=13,
    ),
    Difference(
        "ALTER TABLE t ALTER COLUMN b SET COMPRESSION pglz",
        "COMPRESSION is new in PostgreSQL 14.",
        {"error": 'syntax error at or near "COMPRESSION"'},
        last=13,
    ),
)  # fmt: skip


class Copies:
    """Databases with the schema of the truth table, each a copy of the first."""

    def __init__(self, first: Target, databases: ScratchDatabases, *, has_contrib: bool) -> None:
        self._first = first
        self.has_contrib = has_contrib
        self._databases = databases

    def disposable(self) -> Target:
        return self._databases.create(self._first.name)

    def make_roles(self, names: Collection[str]) -> None:
        assert not names


@pytest.fixture(scope="module")
def copies(server: AnyServer) -> Iterator[Copies]:
    place = server if isinstance(server, EmbeddedServer) else Target("scratch", server.url("postgres"))
    databases = ScratchDatabases(place)
    complete = has_contrib(server)
    with SchemaFile(SETUP if complete else SETUP_WITHOUT_CONTRIB, "setup.sql", place) as schema:
        try:
            yield Copies(schema.disposable(), databases, has_contrib=complete)
        finally:
            databases.drop_all()


def has_contrib(server: AnyServer) -> bool:
    with psycopg.connect(server.url("postgres")) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_available_extensions WHERE name IN ('citext', 'btree_gist')"
        )
        return found.fetchone() == (2,)


def in_force(statement: str, *, apart: bool) -> Iterator[Difference]:
    for difference in DIFFERENCES:
        is_here = difference.first <= server_major() <= difference.last and (apart or not difference.apart)
        if difference.statement == statement and is_here:
            yield difference


def source(name: str, text: str) -> SourceFile:
    return SourceFile(name, text, read_statements(text, source=name))


def expected(measured: dict[str, Any], *, apart: bool) -> dict[str, Any]:
    """Return the measurement in the form of `told`, with the differences that this server is entitled to."""
    found = as_told(measured)
    for difference in in_force(measured["sql"], apart=apart):
        found |= difference.changed
    return {"error": found["error"]} if found["error"] else found


def as_told(measured: dict[str, Any]) -> dict[str, Any]:
    if "error" in measured:
        return {"error": measured["error"]}
    return {
        "error": None,
        "locks": measured["locks"],
        "rewrites": sorted(measured["rewrote"]),
        "builds": sorted(
            found.groups()
            for message in measured["debug"]
            if (found := BUILDING.match(message)) and not found[2].startswith("pg_toast")
        ),
        "scans": sorted(measured["scans"]),
    }


def told(facts: StatementFacts) -> dict[str, Any]:
    """Return the facts in the words of the measurement."""
    if facts.refused is not None:
        return {"error": facts.refused.message.split(" (")[0]}
    views = {item.name.split(".")[-1] for item in facts.before.objects if item.kind == "materialized view"}
    locks = {f"{name.name}[m]" if name.name in views else name.name: mode for name, mode in facts.own.items()}
    locks |= {f"{name.name}[i]": mode for name, mode in facts.index_locks.items()}
    return {
        "error": None,
        "locks": {name: mode.title().replace(" ", "") for name, mode in locks.items() if mode != "ACCESS SHARE"},
        "rewrites": [name.name for name in facts.rewrites],
        "builds": sorted((index, table.name) for index, table in facts.index_builds),
        "scans": [name.name for name in facts.scans],
    }


def written(measured: Mapping[str, Any]) -> str:
    return str(measured["sql"]).removesuffix(" [TimeZone=UTC]")


def text_of(measured: dict[str, Any], copies: Copies) -> str:
    return written(measured) if copies.has_contrib else written(measured).replace(*RANGES)


@pytest.mark.every_version
def test_the_trace_sees_what_was_measured(copies: Copies) -> None:
    """As it was measured: one database, and each statement in a transaction that is rolled back."""
    files = [
        source(f"{number}.sql", f"BEGIN; {text_of(item, copies)}; ROLLBACK") for number, item in enumerate(MEASURED)
    ]
    found = {
        facts.file: told(facts)
        for facts in trace_files(files, copies, SETTINGS).facts
        if facts.statement.kind != "transaction"
    }
    assert found == {f"{number}.sql": expected(item, apart=False) for number, item in enumerate(MEASURED)}


@pytest.mark.parametrize("measured", MEASURED, ids=lambda measured: str(measured["sql"]))
def test_a_statement_that_is_committed_does_the_same(copies: Copies, measured: dict[str, Any]) -> None:
    (facts,) = trace_files([source("change.sql", text_of(measured, copies))], copies, SETTINGS).facts
    assert told(facts) == expected(measured, apart=True)


def test_every_difference_is_of_a_statement_of_the_table_and_says_why() -> None:
    known = {measured["sql"] for measured in MEASURED}
    assert len(MEASURED) == 86
    assert all(difference.statement in known and difference.reason for difference in DIFFERENCES)
