"""Fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.database.clone import scratch_server
from tests.conftest import server_major


@pytest.fixture(scope="session", autouse=True)
def planner_server() -> Iterator[None]:
    """The planner's embedded server, kept running from plan to plan."""
    with scratch_server(server_major()):
        yield
