"""Every question of the monitoring plan can be asked, of every version, and says nothing of a quiet server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tasks.database.connection import Target, connect
from tasks.database.ledger import install
from tasks.planning.monitoring import LIMITS, QUESTIONS
from tests.integration.journey import eventually
from tests.integration.test_live import humble

SIGHT, WAITING = QUESTIONS[:2]


@pytest.mark.every_version
@pytest.mark.parametrize("about", [question.about for question in QUESTIONS])
def test_it_can_be_asked(database: Target, about: str) -> None:
    (question,) = (one for one in QUESTIONS if one.about == about)
    with connect(database, role="test") as connection:
        install(connection)
        connection.execute(LIMITS.encode())
        assert connection.execute(question.sql.encode()).fetchall() == []


@pytest.mark.every_version
def test_a_session_that_waits_for_lockstep_is_seen(database: Target) -> None:
    with connect(database, role="test") as monitor, connect(database, role="work") as work:
        monitor.execute("CREATE TABLE busy (id int)")
        with ThreadPoolExecutor(1) as pool:
            with work.transaction():
                work.execute("LOCK TABLE busy")
                waiting = pool.submit(_write, database)
                eventually(lambda: len(monitor.execute(WAITING.sql.encode()).fetchall()) == 1, "somebody is seen")
            waiting.result(timeout=10)


def test_a_role_that_sees_nothing_is_told_so(database: Target) -> None:
    with humble(database) as poor, connect(poor, role="test") as connection:
        assert connection.execute(SIGHT.sql.encode()).fetchall() == [(connection.info.user,)]
    with humble(database, "pg_monitor") as able, connect(able, role="test") as connection:
        assert connection.execute(SIGHT.sql.encode()).fetchall() == []


def test_an_answer_is_not_waited_for_long(database: Target) -> None:
    with connect(database, role="test") as connection:
        connection.execute(LIMITS.encode())
        shown = [
            connection.execute(f"SHOW {name}".encode()).fetchone() for name in ("statement_timeout", "lock_timeout")
        ]
        assert shown == [("5s",), ("1s",)]


def _write(database: Target) -> None:
    with psycopg.connect(database.conninfo, application_name="application") as application:
        application.execute("INSERT INTO busy VALUES (1)")
