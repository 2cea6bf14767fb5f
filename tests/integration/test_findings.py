"""Every rule on the real server: its bad example gives the finding, its good example does not."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from _pytest.mark import ParameterSet

from tasks.database.connection import Target
from tasks.database.scratch import ScratchDatabases
from tasks.database.statement_trace import trace_files
from tasks.planning.catalog import Catalog
from tasks.planning.findings import work
from tasks.planning.findings.catalogue import RULES
from tasks.planning.findings.judging import Verdict, judge
from tasks.planning.findings.rule import SCHEMA, Rule
from tasks.planning.script import script
from tests.conftest import AnyServer, _new_database

SETTINGS = (("search_path", "public"), ("TimeZone", "UTC"))


@pytest.fixture(scope="module")
def template(server: AnyServer) -> Iterator[str]:
    """The name of a database with the schema of the examples; nobody may stay connected to it."""
    with _new_database(server, "template0") as target:
        with psycopg.connect(target.conninfo, autocommit=True) as connection:
            connection.execute(SCHEMA.encode())
        yield target.name


class Copies:
    """Databases with the schema of the examples and what one of them needs beside it."""

    def __init__(self, server: AnyServer, template: str, setup: str, stack: ExitStack) -> None:
        self._server, self._template, self._setup, self._stack = server, template, setup, stack

    def disposable(self) -> Target:
        made = self._stack.enter_context(_new_database(self._server, self._template))
        if self._setup:
            with psycopg.connect(made.conninfo, autocommit=True) as connection:
                connection.execute(self._setup.encode())
        return made

    def make_roles(self, names: Collection[str]) -> None:
        ScratchDatabases(Target("scratch", self._server.url("postgres"))).create_roles(names)


@contextmanager
def copies(server: AnyServer, template: str, setup: str) -> Iterator[Copies]:
    with ExitStack() as stack:
        yield Copies(server, template, setup, stack)


def judged(place: Copies, rule: Rule, texts: tuple[str, ...]) -> tuple[Verdict, ...]:
    """Judge files by what the server does, as if the live database were the place as it is before them."""
    scripts = [script(text, f"{number}.sql") for number, text in enumerate(texts, start=1)]
    trace = trace_files([item.file for item in scripts], place, SETTINGS)
    live: Catalog = trace.before
    if rule.server_version is not None:
        live = live.model_copy(update={"server_version": rule.server_version})
    noted = {(item.file.name, allowance.statement): (allowance,) for item in scripts for allowance in item.allowances}
    return judge(trace.facts, noted, live)


def examples() -> Iterator[ParameterSet]:
    """Every rule; what the server itself decides is tried on every version."""
    for rule in RULES:
        yield pytest.param(rule, id=rule.id, marks=[pytest.mark.every_version] if rule in work.RULES else [])


@pytest.mark.parametrize("rule", list(examples()))
def test_the_bad_example_is_found_and_the_good_one_is_not(server: AnyServer, template: str, rule: Rule) -> None:
    with copies(server, template, rule.setup) as place:
        bad = judged(place, rule, (rule.bad,))
        found = [item for verdict in bad for item in verdict.findings if item.rule is rule]
        assert found
        assert any(verdict.dangerous for verdict in bad) or not rule.dangerous
        assert any(verdict.fails for verdict in bad) is rule.fails
        good = judged(place, rule, rule.good)
        assert [item.message for verdict in good for item in verdict.findings if item.rule is rule] == []
        assert not any(verdict.fails for verdict in good), "the good example runs"
