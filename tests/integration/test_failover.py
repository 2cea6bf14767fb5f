"""The primary dies and a standby that lacks its last commits takes over, under the same name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tasks.database import runner as runner_module
from tasks.database.connection import Target
from tasks.database.inspection import require_usable
from tasks.database.progress import Progress
from tasks.database.runner import open_runner
from tasks.database.server import EmbeddedServer
from tasks.planning.errors import ReadOnlyServer
from tests.integration.journey import eventually, execute, only
from tests.integration.synthetic import (
    EXPAND,
    FILL,
    NAME,
    ask,
    backfill,
    create_readings,
    ignore,
    phase,
    plan,
    register,
    step,
    transaction,
)
from tests.standby import standby_of

ROWS = 60_000
WRONG = "SELECT count(*) FROM readings WHERE millilitres IS DISTINCT FROM litres * 1000 OR lockstep_pending <> 0"


@dataclass(frozen=True)
class Pair:
    """A primary and its standby; ``name`` leads to whichever of them takes writes, as libpq finds it."""

    server: EmbeddedServer
    primary: Target
    standby: Target
    name: Target

    def catch_up(self) -> None:
        # What is inserted, not what is flushed: the test's server commits asynchronously.
        reached = only(self.primary, "SELECT pg_current_wal_insert_lsn()::text")
        there = f"SELECT coalesce(pg_last_wal_replay_lsn() >= '{reached}', false)"
        eventually(lambda: bool(only(self.standby, there)), "the standby has caught up")

    def cut_off(self) -> None:
        """Let the standby have everything so far, and nothing of what is committed from here on."""
        self.catch_up()
        execute(self.standby, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
        eventually(
            lambda: only(self.primary, "SELECT count(*) FROM pg_stat_replication") == 0, "the standby is cut off"
        )

    def fail_over(self) -> None:
        self.server.stop()
        assert only(self.standby, "SELECT pg_promote()")


@pytest.fixture
def pair(own_server: EmbeddedServer) -> Iterator[Pair]:
    primary = Target("test", own_server.url("postgres"))
    create_readings(primary, ROWS)
    with standby_of(own_server) as standby:
        ports = [str(conninfo_to_dict(each.conninfo)["port"]) for each in (primary, standby)]
        hosts = {"host": "127.0.0.1,127.0.0.1", "port": ",".join(ports)}
        name = Target("test", make_conninfo(primary.conninfo, target_session_attrs="read-write", **hosts))
        yield Pair(own_server, primary, standby, name)


def test_a_backfill_goes_on_where_the_new_primary_knows_it_to_be(pair: Pair) -> None:
    with pytest.raises(ReadOnlyServer, match="standby"):
        require_usable(pair.standby)
    steps = phase("backfill", step(FILL, backfill()))
    register(pair.primary, plan(phase("expand", transaction("expand/readings", *EXPAND)), steps))
    done: dict[str, int] = {}

    def report(_: Progress) -> None:
        """Lose some batches: those that are committed after the cut."""
        reached = "SELECT coalesce(max(rows_done), 0) FROM lockstep.progress"
        if not done:
            # Batches commit asynchronously: what the standby has at the cut is some batch's state.
            eventually(lambda: only(pair.standby, reached) > 0, "the standby knows of a batch")
            pair.cut_off()
            done["standby"] = int(only(pair.standby, reached))
        elif len(done) == 1:
            done["primary"] = int(only(pair.primary, reached))
            pair.fail_over()

    with pytest.MonkeyPatch.context() as patch, open_runner(pair.name, NAME) as runner:
        runner.run_phase("expand", ignore)
        pair.catch_up()
        patch.setattr("tasks.database.progress.REPORT_SECONDS", 0)
        before = runner.token
        runner.run_phase("backfill", report)
        runner.finish_phase("backfill")
        assert runner.token > before
    assert 0 < done["standby"] < done["primary"] < ROWS
    assert ask(pair.name, WRONG) == [(0,)]
    assert ask(pair.name, "SELECT count(*), count(millilitres) FROM readings") == [(ROWS, ROWS)]
    assert not ask(pair.name, "SELECT pg_is_in_recovery()")[0][0]


def test_a_step_that_the_failover_lost_is_done_again_before_the_phase_is_called_done(pair: Pair) -> None:
    """The runner has done it and goes on to the next one; the new primary knows nothing of it."""
    steps = [transaction(f"one/{name}", f"CREATE TABLE {name} ()") for name in ("a", "b")]
    register(pair.primary, plan(phase("one", *steps)))
    happening: dict[tuple[str, str], Callable[[], None]] = {
        ("before", "one/a"): pair.cut_off,
        ("after", "one/a"): pair.fail_over,
    }
    with pytest.MonkeyPatch.context() as patch, open_runner(pair.name, NAME) as runner:
        patch.setattr(runner_module, "crash_point", lambda *place: happening.pop(place, lambda: None)())
        runner.run_phase("one", ignore)
        runner.finish_phase("one")
    assert happening == {}
    assert ask(pair.name, "SELECT to_regclass('a')::text, to_regclass('b')::text") == [("a", "b")]
    assert ask(pair.name, "SELECT DISTINCT state FROM lockstep.step") == [("done",)]
    assert ask(pair.name, "SELECT state FROM lockstep.phase") == [("done",)]


def test_a_runner_goes_on_at_a_new_primary_that_never_heard_of_its_claim(pair: Pair) -> None:
    """Its token is lower there than the runner's own: nobody has taken over."""
    register(pair.primary, plan(phase("one", transaction("one/a", "CREATE TABLE a ()"))))
    pair.cut_off()
    with pytest.MonkeyPatch.context() as patch, open_runner(pair.name, NAME) as runner:
        before = runner.token
        assert only(pair.standby, "SELECT token FROM lockstep.migration") < before
        happening: list[Callable[[], None]] = [pair.fail_over]
        patch.setattr(runner_module, "crash_point", lambda *_: happening.pop()() if happening else None)
        runner.run_phase("one", ignore)
        runner.finish_phase("one")
        assert runner.token > before
    assert ask(pair.name, "SELECT to_regclass('a')::text") == [("a",)]
    assert ask(pair.name, "SELECT state FROM lockstep.phase") == [("done",)]
