"""Every question of the monitoring plan can be asked, of every version, and says nothing of a quiet server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tasks.database.connection import Target, connect
from tasks.database.ledger import install
from tasks.planning.monitoring import QUESTIONS
from tests.integration.journey import eventually


@pytest.mark.every_version
@pytest.mark.parametrize("about", [question.about for question in QUESTIONS])
def test_it_can_be_asked(database: Target, about: str) -> None:
    (question,) = (one for one in QUESTIONS if one.about == about)
    with connect(database, role="test") as connection:
        install(connection)
        assert connection.execute(question.sql.encode()).fetchall() == []


@pytest.mark.every_version
def test_a_session_that_waits_for_lockstep_is_seen(database: Target) -> None:
    with connect(database, role="test") as monitor, connect(database, role="work") as work:
        monitor.execute("CREATE TABLE busy (id int)")
        with ThreadPoolExecutor(1) as pool:
            with work.transaction():
                work.execute("LOCK TABLE busy")
                waiting = pool.submit(_write, database)
                eventually(lambda: len(monitor.execute(QUESTIONS[0].sql.encode()).fetchall()) == 1, "somebody is seen")
            waiting.result(timeout=10)


def _write(database: Target) -> None:
    with psycopg.connect(database.conninfo, application_name="application") as application:
        application.execute("INSERT INTO busy VALUES (1)")
