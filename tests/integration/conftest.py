"""Fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks import prefect_server
from tasks.database.clone import scratch_server
from tasks.database.connection import Target
from tests.conftest import server_major
from tests.integration.notes import SCHEMA, execute
from tests.integration.real_flyway import RealFlyway, real_flyway


@pytest.fixture(scope="session", autouse=True)
def planner_server() -> Iterator[None]:
    """The planner's embedded server, kept running from plan to plan."""
    with scratch_server(server_major()):
        yield


@pytest.fixture(scope="session")
def flyway() -> Iterator[RealFlyway]:
    """The real Flyway, in one JVM for all tests."""
    with real_flyway() as running:
        yield running


@pytest.fixture(scope="module")
def prefect_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect server, which the flows of a module report to."""
    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (prefect_server.PRIVATE | {"PREFECT_HOME": str(home)}).items():
            patch.setenv(name, value)
        with prefect_server.serving(prefect_server.free_port(), home) as server:
            from prefect.logging.handlers import APILogHandler
            from prefect.settings import PREFECT_API_URL, temporary_settings

            with temporary_settings({PREFECT_API_URL: server.url}):
                yield
                APILogHandler().flush()


@pytest.fixture
def notes(database: Target, monkeypatch: pytest.MonkeyPatch) -> Target:
    """The table ``note`` in a database that the flows know by the name ``notes``."""
    execute(database, SCHEMA)
    monkeypatch.setenv("LOCKSTEP_NOTES_URL", database.conninfo)
    return Target("notes", database.conninfo)
