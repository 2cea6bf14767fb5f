"""The live facts on a real server: each one is provoked, and absent where nothing provokes it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tasks.database import live
from tasks.database.connection import Target, connect
from tasks.database.ledger import install
from tasks.database.server import EmbeddedServer
from tasks.planning.live import NO_FREE_SPACE, LiveFacts
from tasks.planning.names import TableName
from tasks.planning.plan import LockUse
from tasks.planning.schema_debt import (
    bloat,
    exhaustion,
    invalid_indexes,
    missing_indexes,
    near_exhaustion,
    notable_bloat,
    redundant_indexes,
    scanned_tables,
)
from tests.conftest import CANARY, INTAKES
from tests.integration.synthetic import ask
from tests.standby import standby_of

DEBT = """
CREATE TABLE person (id bigint PRIMARY KEY, email text);
CREATE TABLE visit (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, person_id bigint REFERENCES person,
    host_id bigint, at timestamptz NOT NULL DEFAULT now(), note text
);
CREATE INDEX visit_person ON visit (person_id);
CREATE INDEX visit_person_at ON visit (person_id, at);
CREATE INDEX visit_note ON visit (note text_pattern_ops);
CREATE INDEX visit_note_at ON visit (note, at);
CREATE UNIQUE INDEX visit_again ON visit (id);
ALTER TABLE visit ADD CONSTRAINT noted CHECK (note <> '') NOT VALID;
ALTER TABLE visit ADD CONSTRAINT hosted FOREIGN KEY (host_id) REFERENCES person ON DELETE CASCADE NOT VALID;
CREATE INDEX visit_host_part ON visit (host_id) WHERE note IS NOT NULL;
"""
VISIT, PERSON, INTAKE = TableName("public", "visit"), TableName("public", "person"), TableName("public", "water_intake")


def looked(target: Target, *, sample_seconds: float = 0.0) -> LiveFacts:
    with connect(target, role="plan") as connection:
        return live.look(connection, sample_seconds=sample_seconds)


def missed(facts: LiveFacts) -> str:
    return "\n".join(map(str, facts.unseen))


@contextmanager
def session(target: Target) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(target.conninfo, autocommit=True, application_name="shop") as connection:
        yield connection


def eventually(target: Target, holds: Callable[[LiveFacts], bool]) -> LiveFacts:
    """Look until something holds: sessions report what they did with a delay."""
    deadline = time.monotonic() + 10
    while not holds(facts := looked(target)):
        assert time.monotonic() < deadline, facts
        time.sleep(0.2)
    return facts


@pytest.mark.every_version
def test_a_sound_database_has_sizes_and_no_debt(drink_water: Target) -> None:
    facts = looked(drink_water)
    intake = facts.table(INTAKE)
    assert intake is not None
    assert (intake.rows, intake.columns_measured) == (INTAKES, intake.columns)
    assert intake.heap_bytes >= 8192
    assert intake.index_bytes > 0
    assert facts.sees_all
    assert facts.disk.database_bytes
    assert facts.disk.wal_bytes
    assert [space.name for space in facts.disk.tablespaces if space.is_default] == ["pg_default"]
    assert NO_FREE_SPACE in facts.unseen
    for judgement in (redundant_indexes, invalid_indexes, scanned_tables, near_exhaustion, notable_bloat):
        assert judgement(facts) == (), judgement
    assert (*facts.not_valid, *facts.publications, *facts.transactions, *facts.prepared) == ()
    key = next(item for item in exhaustion(facts) if item.key.table == INTAKE)
    assert (key.key.last, key.key.sequence) == (INTAKES, TableName("public", "water_intake_id_seq"))
    assert CANARY not in facts.model_dump_json()
    assert LiveFacts.model_validate_json(facts.model_dump_json()) == facts


@pytest.mark.every_version
def test_debt_is_found(database: Target) -> None:
    ask(database, DEBT)
    facts = looked(database)
    # An index with a predicate of its own does not find all rows that refer to a person.
    assert [(item.key.name, item.key.columns) for item in missing_indexes(facts)] == [("hosted", ("host_id",))]
    # Another operator class serves other searches, so visit_note stays.
    found = {item.index.name: (item.by.name, item.role, item.same) for item in redundant_indexes(facts)}
    assert found == {
        "visit_person": ("visit_person_at", "plain", False),
        "visit_again": ("visit_pkey", "unique", True),
    }
    assert [(item.name, item.table, item.kind) for item in facts.not_valid] == [
        ("hosted", VISIT, "foreign_key"),
        ("noted", VISIT, "check"),
    ]
    assert [(key.name, key.acts, key.validated) for key in facts.foreign_keys] == [
        ("hosted", True, False),
        ("visit_person_id_fkey", False, True),
    ]


def test_what_was_repaired_is_not_found_any_more(database: Target) -> None:
    ask(database, DEBT)
    ask(
        database,
        "DROP INDEX visit_person, visit_again; CREATE INDEX ON visit (host_id) WHERE host_id IS NOT NULL;"
        "ALTER TABLE visit VALIDATE CONSTRAINT noted; ALTER TABLE visit VALIDATE CONSTRAINT hosted",
    )
    facts = looked(database)
    assert missing_indexes(facts) == ()
    assert redundant_indexes(facts) == ()
    assert facts.not_valid == ()


@pytest.mark.every_version
def test_a_failed_build_leaves_an_invalid_index(database: Target) -> None:
    ask(database, "CREATE TABLE twice (n int); INSERT INTO twice VALUES (1), (1)")
    with session(database) as connection, pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute("CREATE UNIQUE INDEX CONCURRENTLY twice_n ON twice (n)")
    found = invalid_indexes(looked(database))
    assert [(item.index.name, item.state) for item in found] == [("twice_n", "failed")]


@pytest.mark.every_version
def test_an_index_that_is_being_built(database: Target) -> None:
    ask(database, "CREATE TABLE slow (n int); INSERT INTO slow VALUES (1)")

    def build() -> None:
        with session(database) as connection:
            connection.execute("CREATE INDEX CONCURRENTLY slow_n ON slow (n)")

    builder = threading.Thread(target=build)
    with session(database) as writer, writer.transaction():
        writer.execute("UPDATE slow SET n = 2")
        builder.start()
        facts = eventually(database, lambda found: bool(invalid_indexes(found)))
    builder.join(timeout=20)
    assert [(item.index.name, item.state) for item in invalid_indexes(facts)] == [("slow_n", "being built")]
    assert invalid_indexes(looked(database)) == ()


@pytest.mark.every_version
@pytest.mark.needs_major(18)
def test_what_eighteen_knows_of_constraints(database: Target) -> None:
    ask(
        database,
        "CREATE TABLE t (n int, m int); ALTER TABLE t ADD CONSTRAINT filled NOT NULL n NOT VALID;"
        "ALTER TABLE t ADD CONSTRAINT hoped CHECK (m > 0) NOT ENFORCED",
    )
    assert [(item.name, item.kind) for item in looked(database).not_valid] == [("filled", "not_null")]


def test_standbys(own_server: EmbeddedServer) -> None:
    primary = Target("primary", own_server.url("postgres"))
    assert looked(primary).standbys == ()
    with standby_of(own_server) as standby:
        (found,) = eventually(primary, lambda facts: bool(facts.standbys)).standbys
        assert found.state in ("startup", "catchup", "streaming")
        assert found.sync == "async"
        # A standby has no place in the log of its own: what follows from one is missing, and said.
        facts = looked(standby)
        assert facts.wal_rate is None
        assert "replication slots: the server does not tell it" in missed(facts)
        assert facts.disk.database_bytes


@pytest.mark.every_version
def test_keys_near_their_end(database: Target) -> None:
    ask(
        database,
        "CREATE TABLE small (id smallserial PRIMARY KEY); SELECT setval('small_id_seq', 30000);"
        "CREATE TABLE capped (id bigint DEFAULT 0 PRIMARY KEY); CREATE SEQUENCE cap MAXVALUE 1000;"
        "ALTER TABLE capped ALTER id SET DEFAULT nextval('cap'); SELECT setval('cap', 900);"
        "CREATE TABLE given (id int PRIMARY KEY); INSERT INTO given SELECT 2000000000 + generate_series(1, 900);"
        "CREATE TABLE wide (id bigserial PRIMARY KEY); SELECT setval('wide_id_seq', 2147483600);"
        "CREATE TABLE narrow (wide_id int REFERENCES wide);"
        "CREATE TABLE young (id bigserial PRIMARY KEY); INSERT INTO young DEFAULT VALUES; ANALYZE",
    )
    facts = looked(database)
    near = {str(item.key.table): (item.limit, item.left) for item in near_exhaustion(facts)}
    assert near == {
        "public.small": (32_767, 2_767),
        "public.capped": (1_000, 100),
        "public.given": (2_147_483_647, 147_482_747),
        "public.narrow": (2_147_483_647, 47),
    }
    assert {item.measured for item in exhaustion(facts)} <= {"none", "average"}


@pytest.mark.every_version
def test_write_rates_and_the_date_of_the_end(database: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(
        database,
        "CREATE TABLE busy (id smallserial PRIMARY KEY, n int, m int) WITH (fillfactor = 50);"
        "CREATE INDEX ON busy (m); CREATE TABLE idle (n int); INSERT INTO busy (n) VALUES (0); SELECT pg_sleep(1.1)",
    )

    def write(_: float) -> None:
        ask(database, "INSERT INTO busy (n, m) SELECT n, n FROM generate_series(1, 100) AS n")
        ask(database, "UPDATE busy SET n = n + 1 WHERE id <= 30")
        ask(database, "DELETE FROM busy WHERE id > 91")
        deadline = time.perf_counter() + 10
        while ask(database, "SELECT n_tup_del FROM pg_stat_user_tables WHERE relname = 'busy'") != [(10,)]:
            assert time.perf_counter() < deadline

    monkeypatch.setattr(time, "sleep", write)
    facts = looked(database, sample_seconds=1.0)
    (rate,) = facts.rates
    assert rate.table == TableName("public", "busy")
    assert [round(value * rate.seconds) for value in (rate.inserted, rate.updated, rate.deleted)] == [100, 30, 10]
    assert rate.hot_share == 1.0
    assert facts.rate_of(TableName("public", "idle")) is None
    assert facts.wal_rate is not None
    assert facts.wal_rate > 0
    (key,) = near_exhaustion(facts)
    # At this rate all 32,767 numbers are gone within the hour.
    assert key.ends_at is not None
    assert 0 < (key.ends_at - facts.taken_at).total_seconds() < 3_600


@pytest.mark.every_version
def test_long_transactions_without_their_values(drink_water: Target) -> None:
    with session(drink_water) as one, one.transaction():
        one.execute("UPDATE users SET email = 'ada@lovelace.example' WHERE id = 1")
        time.sleep(0.05)
        with session(drink_water) as two, two.transaction():
            two.execute("SELECT 1")
            facts = looked(drink_water)
    assert len(facts.transactions) == 2
    oldest = facts.transactions[0]
    assert (oldest.application, oldest.state) == ("shop", "idle in transaction")
    assert oldest.query == "UPDATE users SET email = …"
    assert oldest.seconds is not None
    assert oldest.seconds > (facts.transactions[1].seconds or 0.0)
    assert oldest.holds_rows_back
    users = TableName("public", "users")
    assert LockUse(table=users, mode="ROW EXCLUSIVE") in oldest.holds
    assert facts.in_the_way([LockUse(table=users, mode="SHARE")]) == (oldest,)
    assert facts.in_the_way([LockUse(table=users, mode="ROW EXCLUSIVE")]) == ()
    assert facts.in_the_way([LockUse(table=INTAKE, mode="ACCESS EXCLUSIVE")]) == ()
    assert "lovelace" not in facts.model_dump_json()


@pytest.mark.every_version
def test_what_holds_back_and_what_is_published(database: Target) -> None:
    slot = f"{database.name}_slot"
    ask(database, "CREATE TABLE t (n int PRIMARY KEY); CREATE TABLE u (n int); CREATE PUBLICATION p FOR TABLE t")
    ask(database, "CREATE PUBLICATION everything FOR ALL TABLES WITH (publish = 'insert')")
    ask(database, f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    with session(database) as connection:
        connection.execute("BEGIN; INSERT INTO u VALUES (1); PREPARE TRANSACTION 'two'")
        try:
            facts = looked(database)
        finally:
            connection.execute("ROLLBACK PREPARED 'two'")
            connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
    (own,) = [found for found in facts.slots if found.name == slot]
    assert (own.kind, own.plugin, own.database, own.active) == ("logical", "pgoutput", database.name, False)
    assert own.retained_bytes is not None
    assert [(found.name, found.role) for found in facts.prepared] == [("two", facts.role)]
    published = {found.name: (found.all_tables, found.tables, found.operations) for found in facts.publications}
    t, u = TableName("public", "t"), TableName("public", "u")
    assert published == {
        "p": (False, (t,), ("insert", "update", "delete", "truncate")),
        "everything": (True, (t, u), ("insert",)),
    }


def test_a_large_table_that_is_read_from_begin_to_end(database: Target) -> None:
    ask(database, "CREATE TABLE log (n int); INSERT INTO log SELECT generate_series(1, 120000); ANALYZE log")
    assert scanned_tables(looked(database)) == ()
    with session(database) as connection:
        for _ in range(25):
            connection.execute("SELECT count(*) FROM log WHERE n < 0")
    facts = eventually(database, lambda found: bool(scanned_tables(found)))
    (scanned,) = scanned_tables(facts)
    assert scanned.table.name == TableName("public", "log")
    assert scanned.share == 1.0
    assert scanned.rows_a_scan >= 110_000


@pytest.mark.every_version
def test_bloat_is_estimated(database: Target) -> None:
    ask(
        database,
        "CREATE TABLE swollen (id int PRIMARY KEY, note text) WITH (autovacuum_enabled = off);"
        "INSERT INTO swollen SELECT n, repeat('x', 400) FROM generate_series(1, 60000) AS n;"
        "CREATE TABLE lean (id int PRIMARY KEY, note text); INSERT INTO lean TABLE swollen;"
        "CREATE INDEX lean_next ON lean ((id + 1), id); ANALYZE",
    )
    facts = looked(database)
    assert notable_bloat(facts) == ()
    assert {item.relation.name for item in bloat(facts)} == {
        "swollen",
        "swollen_pkey",
        "lean",
        "lean_pkey",
        "lean_next",
    }
    # Where nothing is bloated the estimate is right to a few percent.
    for item in bloat(facts):
        assert 0.9 < item.expected_bytes / item.bytes < 1.1, item
    ask(database, "DELETE FROM swollen WHERE id % 4 <> 0")
    ask(database, "VACUUM ANALYZE swollen")
    (found,) = notable_bloat(looked(database))
    assert (found.relation, found.kind) == (TableName("public", "swollen"), "table")
    assert found.share == pytest.approx(0.75, abs=0.05)
    assert "estimated" in found.basis


@pytest.mark.every_version
def test_partitions_count_together(database: Target) -> None:
    ask(
        database,
        "CREATE TABLE part (id bigint, at int) PARTITION BY RANGE (at);"
        "CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (50);"
        "CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (50) TO (100);"
        "CREATE INDEX part_at ON part (at); INSERT INTO part SELECT n, n FROM generate_series(0, 99) AS n; ANALYZE",
    )
    facts = looked(database)
    whole, first = facts.table(TableName("public", "part")), facts.table(TableName("public", "part_1"))
    assert whole is not None
    assert first is not None
    assert (whole.rows, first.rows, first.root) == (100, 50, whole.name)
    assert whole.heap_bytes == 2 * first.heap_bytes > 0
    assert redundant_indexes(facts) == ()
    assert invalid_indexes(facts) == ()
    ask(database, "CREATE INDEX part_id ON ONLY part (id)")
    assert [(item.index.name, item.state) for item in invalid_indexes(looked(database))] == [("part_id", "incomplete")]


@contextmanager
def humble(target: Target, *grants: str) -> Iterator[Target]:
    """A role with no right but to connect, and these."""
    name = f"humble_{target.name}"
    with session(target) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'humble'").format(sql.Identifier(name)))
        for grant in grants:
            connection.execute(f'GRANT {grant} TO "{name}"'.encode())
        try:
            yield Target(target.name, make_conninfo(target.conninfo, user=name, password="humble"))
        finally:
            connection.execute(f'DROP OWNED BY "{name}"; DROP ROLE "{name}"'.encode())


@pytest.mark.every_version
def test_a_role_without_rights_says_what_it_cannot_see(drink_water: Target) -> None:
    with humble(drink_water) as poor, session(drink_water) as other, other.transaction():
        other.execute("LOCK TABLE users IN SHARE MODE")
        facts = looked(poor)
    intake = facts.table(INTAKE)
    assert intake is not None
    assert (intake.rows, intake.data_bytes) == (INTAKES, None)
    assert intake.heap_bytes >= 8192
    assert bloat(facts) == ()
    assert not facts.sees_all
    # Who is in the way shows by the locks alone.
    (way,) = facts.in_the_way([LockUse(table=TableName("public", "users"), mode="ACCESS EXCLUSIVE")])
    assert (way.seconds, way.query) == (None, "")
    said = missed(facts)
    for words in (
        "how long other roles' transactions are open",
        "standbys and their lag: the role may not see them",
        "how much WAL is on disk: the role may not see it",
        "row widths and bloat",
        "the last number of public.water_intake.id",
        "free disk space",
        "pg_monitor",
    ):
        assert words in said, words


def test_with_pg_monitor_it_sees_sessions(drink_water: Target) -> None:
    grants = ("pg_monitor", "SELECT ON ALL TABLES IN SCHEMA public")
    with humble(drink_water, *grants) as able, session(drink_water) as other, other.transaction():
        other.execute("SELECT 1")
        facts = looked(able)
    assert facts.sees_all
    assert [found.query for found in facts.transactions] == ["SELECT …"]
    assert "how much WAL" not in missed(facts)
    assert "bloat" not in missed(facts)
    assert len(bloat(facts)) > 0


def test_a_locked_table_is_not_waited_for(drink_water: Target) -> None:
    with session(drink_water) as other, other.transaction():
        other.execute("LOCK TABLE water_intake")
        began = time.monotonic()
        facts = looked(drink_water)
        assert time.monotonic() - began < 3
    intake = facts.table(INTAKE)
    assert intake is not None
    assert intake.heap_bytes > 0
    assert "exact sizes of tables" in missed(facts)
    assert (facts.sees_indexes, missing_indexes(facts)) == (True, ())
    # Printing a predicate needs the table: then nothing is known of indexes, and none is said to be missing.
    ask(drink_water, "CREATE INDEX ON water_intake (user_id) WHERE volume > 0")
    with session(drink_water) as other, other.transaction():
        other.execute("LOCK TABLE water_intake")
        facts = looked(drink_water)
    assert "indexes: another session holds an ACCESS EXCLUSIVE lock" in missed(facts)
    assert (facts.sees_indexes, facts.indexes, missing_indexes(facts)) == (False, (), ())
    assert [found.query for found in facts.transactions] == ["LOCK TABLE water_intake"]


@pytest.mark.every_version
def test_a_locked_partition_hides_no_table(database: Target) -> None:
    ask(
        database,
        "CREATE TABLE part (id int) PARTITION BY RANGE (id);"
        "CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (1000);"
        "INSERT INTO part SELECT generate_series(1, 900); ANALYZE part",
    )
    with session(database) as other, other.transaction():
        other.execute("LOCK TABLE ONLY part_1")
        facts = looked(database)
    whole, leaf = (facts.table(TableName("public", name)) for name in ("part", "part_1"))
    assert whole is not None
    assert leaf is not None
    assert (whole.rows, leaf.rows) == (900, 900)
    assert whole.heap_bytes == leaf.heap_bytes > 0


def test_the_lock_table_is_left_to_the_application(database: Target) -> None:
    many = 3 * live.SEQUENCES_AT_ONCE
    ask(
        database,
        f"DO $$ BEGIN FOR n IN 1001..{1000 + many} LOOP"
        " EXECUTE format('CREATE TABLE t%s (id serial PRIMARY KEY)', n); END LOOP; END $$;"
        "INSERT INTO t1001 DEFAULT VALUES",
    )
    locks = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE application_name = 'lockstep:plan'"
    held = []
    with session(database) as other, session(database) as monitor, other.transaction():
        # Behind this lock the look waits, with the locks that it has by then.
        other.execute(f"ALTER SEQUENCE t{1000 + many}_id_seq CACHE 2".encode())
        with ThreadPoolExecutor(1) as pool:
            looking = pool.submit(looked, database)
            while not looking.done():
                held.append(int(str(monitor.execute(locks.encode()).fetchall()[0][0])))
        facts = looking.result()
    assert live.SEQUENCES_AT_ONCE <= max(held) < 2 * live.SEQUENCES_AT_ONCE
    assert "the last numbers of some sequences: another session holds" in missed(facts)
    assert next(key.last for key in facts.keys if key.table.name == "t1001") == 1
    assert len(facts.keys) == many


def test_lockstep_does_not_look_at_itself(database: Target) -> None:
    ask(database, "CREATE TABLE t (n int)")
    with connect(database, role="ledger") as own:
        install(own)
        with own.transaction():
            own.execute("SELECT 1 FROM lockstep.migration")
            facts = looked(database)
    assert [str(table.name) for table in facts.tables] == ["public.t"]
    assert facts.transactions == ()
    assert facts.indexes == ()


def test_without_pg_stat_statements_there_are_no_latencies(database: Target) -> None:
    facts = looked(database)
    assert facts.latencies == ()
    assert "baseline latencies: the extension pg_stat_statements is not in this database" in missed(facts)
