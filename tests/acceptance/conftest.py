"""Fixtures of the acceptance tests: a Prefect server of their own and a command line that stays in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from tasks import prefect_server
from tasks.database import server as embedded
from tasks.database.connection import Target
from tests.acceptance.harness import Lockstep
from tests.acceptance.shell import Shell


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The environment of commands that share one Prefect server, and the planner's embedded server, kept running."""
    home = tmp_path_factory.mktemp("prefect")
    with prefect_server.serving(prefect_server.free_port(), home) as server, embedded.serving():
        yield {
            "PREFECT_API_URL": server.url,
            "PREFECT_HOME": str(home),
            "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),
            "LOCKSTEP_LEASE_SECONDS": "2",
        }


@pytest.fixture(scope="session")
def shell(environment: Mapping[str, str]) -> Iterator[Shell]:
    """The command line, kept in one process for the whole session."""
    kept = Shell(environment)
    yield kept
    kept.close()


@pytest.fixture
def lockstep(shell: Shell, database: Target) -> Lockstep:
    """The command line, pointed at this test's database."""
    return Lockstep(shell, database)
