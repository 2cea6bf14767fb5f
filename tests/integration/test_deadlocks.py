"""Circles of waiting: whoever has to give way, it is never the application."""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tasks.database.connection import Target
from tasks.database.locks import Patience
from tasks.database.runner import open_runner
from tasks.planning.plan import Action, DropIndex, LockUse, Reindex
from tests.integration.filling import WRONG, expanded
from tests.integration.journey import eventually, execute, only
from tests.integration.synthetic import (
    INDEX,
    NAME,
    READINGS,
    ask,
    create_readings,
    ignore,
    phase,
    plan,
    register,
    step,
    transaction,
)

ROWS = 4_000
NEXT = "SELECT id FROM readings WHERE lockstep_pending <> 0 AND id %% 10 = 1 ORDER BY id OFFSET %s LIMIT 1"
"""A row where the backfill is just now, and not one of those that the trigger counts."""
# Every batch updates a row that the application updates too: what it does first, the batch does last.
TOTALS = """
CREATE TABLE totals (part int PRIMARY KEY, n bigint NOT NULL);
INSERT INTO totals SELECT n, 0 FROM generate_series(0, {parts} - 1) AS n;
CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    UPDATE public.totals SET n = n + 1 WHERE part = NEW.id % {parts};
    RETURN NEW;
END $$;
CREATE TRIGGER count_up BEFORE UPDATE ON readings FOR EACH ROW WHEN (NEW.id % 10 = 0) EXECUTE FUNCTION count_up();
"""


class Application:
    """Sessions that update a total and then a reading that the next batch has locked, in one transaction."""

    def __init__(self, target: Target, sessions: int, parts: int) -> None:
        self.errors: list[str] = []
        self.transactions = 0
        self._end = threading.Event()
        arguments = ((target, number, parts) for number in range(sessions))
        self._threads = [threading.Thread(target=self._work, args=each) for each in arguments]

    def __enter__(self) -> Application:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _work(self, target: Target, number: int, parts: int) -> None:
        chance = random.Random(number)
        with psycopg.connect(target.conninfo, autocommit=True) as connection:
            while not self._end.is_set():
                near = connection.execute(NEXT, (chance.randrange(20),)).fetchone()
                try:
                    with connection.transaction():
                        # Each session has a total of its own: they never wait for each other in a circle.
                        connection.execute("UPDATE totals SET n = n + 1 WHERE part = %s", (number % parts,))
                        time.sleep(0.004)
                        reading = near[0] if near else 1
                        connection.execute("UPDATE readings SET litres = litres + 1 WHERE id = %s", (reading,))
                    self.transactions += 1
                    time.sleep(0.006)
                except psycopg.Error as error:
                    self.errors.append(f"{type(error).__name__} {error.diag.message_detail}")


@contextmanager
def migrator(target: Target) -> Iterator[Target]:
    """A role without any privilege but to own the database and its tables."""
    role, password = f"migrator_{secrets.token_hex(4)}", secrets.token_hex(8)
    name = sql.Identifier(role)
    with psycopg.connect(target.conninfo, autocommit=True) as admin:
        database = sql.Identifier(str(admin.info.dbname))
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, sql.Literal(password)))
        admin.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, name))
        admin.execute(sql.SQL("GRANT ALL ON SCHEMA public TO {}").format(name))
        try:
            yield Target(target.name, make_conninfo(target.conninfo, user=role, password=password))
        finally:
            admin.execute(sql.SQL("ALTER DATABASE {} OWNER TO CURRENT_USER").format(database))
            admin.execute(sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER; DROP OWNED BY {}").format(name, name))
            admin.execute(sql.SQL("DROP ROLE {}").format(name))


def rolled_back(target: Target) -> int:
    return int(only(target, "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()"))


def migrate_under_load(database: Target, runner_target: Target, *, sessions: int, parts: int) -> int:
    """Run the backfill while the application works; return how many transactions of Lockstep's had to give way."""
    create_readings(runner_target, ROWS)
    execute(database, TOTALS.format(parts=parts))
    expanded(runner_target)
    before = rolled_back(database)
    with Application(database, sessions, parts) as application, open_runner(runner_target, NAME) as runner:
        runner.run_phase("backfill", ignore)
    assert application.errors == []
    assert application.transactions > 10
    assert ask(database, WRONG) == [(0,)]
    time.sleep(0.2)
    return rolled_back(database) - before


def look_for_deadlocks_after(target: Target, duration: str) -> None:
    """Set deadlock_timeout for all sessions of the database, as a server's configuration would."""
    name = only(target, "SELECT quote_ident(current_database())")
    execute(target, f"ALTER DATABASE {name} SET deadlock_timeout = '{duration}'")


@pytest.mark.parametrize("deadlock_timeout", ["1s", "10ms"])
def test_the_batch_gives_way_and_never_the_application(database: Target, deadlock_timeout: str) -> None:
    look_for_deadlocks_after(database, deadlock_timeout)
    gave_way = migrate_under_load(database, database, sessions=4, parts=4)
    assert gave_way > 0, "nothing was in anybody's way: this proved nothing"


def test_a_role_that_may_not_choose_gives_way_by_its_lock_timeout(database: Target) -> None:
    with migrator(database) as target:
        gave_way = migrate_under_load(database, target, sessions=3, parts=1)
        assert gave_way > 0, "nothing was in anybody's way: this proved nothing"


def test_a_step_over_two_tables_gives_way_to_whoever_holds_the_second(database: Target) -> None:
    """The application has the parent and wants the child; adding the foreign key has the child and wants the parent."""
    create_readings(database, 100)
    look_for_deadlocks_after(database, "200ms")
    execute(database, "CREATE TABLE parent (id bigint PRIMARY KEY); INSERT INTO parent VALUES (1)")
    add = transaction("one/fk", "ALTER TABLE readings ADD FOREIGN KEY (id) REFERENCES parent (id) NOT VALID")
    locks = (*add.locks, LockUse(table=READINGS._replace(name="parent"), mode="SHARE ROW EXCLUSIVE"))
    register(database, plan(phase("one", add.model_copy(update={"locks": locks, "lock_timeout_ms": 2_000}))))
    with psycopg.connect(database.conninfo) as application:
        application.execute("UPDATE parent SET id = 2 WHERE id = 1")

        def finish() -> None:
            _until_waiting(database)
            # Behind the step, which waits for `parent` while it holds `readings`.
            application.execute("UPDATE readings SET litres = 5 WHERE id = 7")
            application.execute("UPDATE parent SET id = 1 WHERE id = 2")
            application.commit()

        watching = threading.Thread(target=finish)
        watching.start()
        with open_runner(database, NAME) as runner:
            runner.run_phase("one", ignore)
        watching.join()
    assert ask(database, "SELECT litres FROM readings WHERE id = 7") == [(5,)]
    added = "SELECT count(*) FROM pg_constraint WHERE conrelid = 'readings'::regclass AND contype = 'f'"
    assert only(database, added) == 1


CONCURRENTLY: dict[str, Action] = {
    "build": INDEX,
    "rebuild": Reindex(table=READINGS, index="readings_litres"),
    "drop": DropIndex(table=READINGS, index="readings_litres"),
}
INDEXES = (
    "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'readings'::regclass AND indisvalid ORDER BY 1"
)
LEFT = {
    "build": ["readings_litres", "readings_millilitres", "readings_pkey"],
    "rebuild": ["readings_litres", "readings_pkey"],
    "drop": ["readings_pkey"],
}


@pytest.mark.every_version
@pytest.mark.parametrize("what", CONCURRENTLY)
@pytest.mark.parametrize("may_choose", [True, False])
def test_what_waits_for_a_transaction_gives_way_when_that_asks_for_the_table(
    database: Target, what: str, may_choose: bool
) -> None:
    """PostgreSQL looks for a circle once a wait, from its end: here the application would be the one to find it."""
    with database_or_migrator(database, may_choose=may_choose) as target:
        create_readings(target, 100)
        ask(target, "ALTER TABLE readings ADD millilitres bigint; CREATE INDEX readings_litres ON readings (litres)")
        register(target, plan(phase("one", step("one/index", CONCURRENTLY[what]))))
        with psycopg.connect(database.conninfo) as application, ThreadPoolExecutor(1) as pool:
            application.execute("UPDATE readings SET litres = 5 WHERE id = 7")
            done = pool.submit(run_one, target)
            _until_waiting(database)
            application.execute("LOCK TABLE readings IN SHARE ROW EXCLUSIVE MODE")
            application.execute("UPDATE readings SET litres = 6 WHERE id = 7")
            application.commit()
            done.result(timeout=60)
        assert ask(database, "SELECT litres FROM readings WHERE id = 7") == [(6,)]
        assert [name for (name,) in ask(database, INDEXES)] == LEFT[what]


def test_a_build_by_a_role_that_may_not_choose_gives_way_to_an_alter_table(database: Target) -> None:
    """The ALTER waits for the build's lock, and from the end of its last pass on the build for the ALTER's snapshot."""
    with migrator(database) as target:
        create_readings(target, 100)
        ask(target, "ALTER TABLE readings ADD millilitres bigint")
        register(target, plan(phase("one", step("one/index", INDEX))))
        with psycopg.connect(database.conninfo) as application, ThreadPoolExecutor(2) as pool:
            application.execute("UPDATE readings SET litres = 5 WHERE id = 7")
            done = pool.submit(run_one, target)
            _until_waiting(database)
            altered = pool.submit(ask, target, "ALTER TABLE readings ALTER litres SET DEFAULT 0")
            eventually(lambda: only(database, WAITING_ALTER) == 1, "the ALTER waits for the build")
            application.commit()
            altered.result(timeout=60)
            done.result(timeout=60)
        assert [name for (name,) in ask(database, INDEXES)] == ["readings_millilitres", "readings_pkey"]


WAITING_ALTER = """
SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
 WHERE d.datname = current_database() AND l.mode = 'AccessExclusiveLock' AND NOT l.granted
"""


def run_one(target: Target) -> None:
    # However long it has worked: only the tries count.
    with open_runner(target, NAME, patience=Patience(seconds=0)) as runner:
        runner.run_phase("one", ignore)


@contextmanager
def database_or_migrator(database: Target, *, may_choose: bool) -> Iterator[Target]:
    if may_choose:
        yield database
        return
    with migrator(database) as target:
        yield target


def _until_waiting(target: Target) -> None:
    deadline = time.monotonic() + 10
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'lockstep:work%' "
        "AND wait_event_type = 'Lock' AND datname = current_database()"
    )
    while ask(target, query) == [(0,)]:
        assert time.monotonic() < deadline
