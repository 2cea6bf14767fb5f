"""Fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.database.server import serving
from tests.conftest import scratch_major


@pytest.fixture(scope="session", autouse=True)
def scratch_server() -> Iterator[None]:
    """The planner's embedded server, kept running from plan to plan."""
    with serving(scratch_major()):
        yield
