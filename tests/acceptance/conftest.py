"""Fixtures of the acceptance tests: a Prefect server of their own and a command line that stays in memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

import pytest

from tasks import prefect_server
from tasks.database.clone import scratch_server
from tasks.database.connection import Target
from tests.acceptance.harness import Lockstep
from tests.acceptance.shell import Shell
from tests.conftest import server_major


@pytest.fixture(scope="package")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The environment of commands that share one Prefect server, and the planner's embedded server, kept running."""
    home = tmp_path_factory.mktemp("prefect")
    with contextlib.ExitStack() as stack:
        stack.enter_context(scratch_server(server_major()))
        # A server that runs already is taken as it is, as the command line does: a start takes half a minute.
        address = os.environ.get("PREFECT_API_URL")
        if address is None:
            address = stack.enter_context(prefect_server.serving(prefect_server.free_port(), home)).url
        yield {
            "PREFECT_API_URL": address,
            "PREFECT_HOME": str(home),
            "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),
            "LOCKSTEP_LEASE_SECONDS": "2",
        }


@pytest.fixture(scope="package")
def shell(environment: Mapping[str, str]) -> Iterator[Shell]:
    """The command line, kept in one process for all acceptance tests."""
    kept = Shell(environment)
    yield kept
    kept.close()


@pytest.fixture
def lockstep(shell: Shell, database: Target) -> Lockstep:
    """The command line, pointed at this test's database."""
    return Lockstep(shell, database)
