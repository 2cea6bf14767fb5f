"""Snapshots of a real database, and what real DDL means by them."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.pq import TransactionStatus

from tasks.database.catalog import snapshot
from tasks.database.connection import Target, connect
from tasks.database.trace import run_statement, trace_change
from tasks.planning.catalog import Catalog, Table
from tasks.planning.errors import LockNotAcquired, SpecError
from tasks.planning.meaning import Change, ColumnChanged, changes
from tasks.planning.names import TableName
from tasks.planning.schema_hash import schema_hash
from tasks.planning.spec import load
from tasks.planning.statements import parse_change
from tests.conftest import DRINK_WATER, server_major

NASTY = (Path(__file__).parent / "nasty_schema.sql").read_bytes()
CUSTOMER = TableName("shop", "customer")
ORDER = TableName("shop", "order")


@pytest.fixture
def nasty(database: Target) -> Target:
    with connect(database, role="test") as conn:
        conn.execute(NASTY)
    return database


def read(target: Target) -> Catalog:
    with connect(target, role="test") as conn:
        return snapshot(conn)


def table(catalog: Catalog, name: TableName) -> Table:
    found = catalog.table(name)
    assert found is not None
    return found


def meaning(target: Target, text: str) -> tuple[Change, ...]:
    with connect(target, role="test") as conn:
        before = snapshot(conn)
        for number, statement in enumerate(parse_change(text, source="change"), start=1):
            run_statement(conn, statement, number)
        return changes(before, snapshot(conn))


def told(target: Target, text: str) -> list[tuple[str, bool]]:
    return [(item.describe(), getattr(item, "consequence", False)) for item in meaning(target, text)]


@pytest.mark.every_version
def test_columns_are_read_in_full(nasty: Target) -> None:
    columns = {column.name: column for column in table(read(nasty), CUSTOMER).columns}
    assert columns["id"].identity == "a"
    assert columns["id"].not_null
    assert columns["mail"].type == "shop.email"
    assert columns["m"].default == "'ok'::shop.mood"
    assert columns["größe_🐘"].type == "numeric(8,2)"
    assert columns["first"].collation == 'pg_catalog."C"'
    assert columns["full_name"].generated == "s"
    assert columns["d"].statistics_target == 77
    assert columns["d"].options == ("n_distinct=5",)
    assert columns["d"].comment == "it's"
    assert columns["docb"].storage == "e"
    assert "dropped" not in columns
    assert columns["old_ref"].attnum < columns["pt"].attnum - 1
    assert {name for name, column in columns.items() if not column.has_equality} == {"a", "doc", "pt", "xs"}


def test_equality_is_what_a_search_path_of_pg_catalog_finds(database: Target) -> None:
    """IS DISTINCT FROM looks an operator up by search_path, but that of elements and attributes by their class."""
    with connect(database, role="test") as conn:
        conn.execute(
            """
            CREATE SCHEMA ext; CREATE TYPE ext.word;
            CREATE FUNCTION ext.word_in(cstring) RETURNS ext.word LANGUAGE internal STRICT IMMUTABLE AS 'textin';
            CREATE FUNCTION ext.word_out(ext.word) RETURNS cstring LANGUAGE internal STRICT IMMUTABLE AS 'textout';
            CREATE TYPE ext.word (INPUT = ext.word_in, OUTPUT = ext.word_out, LIKE = text);
            CREATE FUNCTION ext.eq(ext.word, ext.word) RETURNS boolean LANGUAGE internal STRICT IMMUTABLE AS 'byteaeq';
            CREATE FUNCTION ext.hash(ext.word) RETURNS integer LANGUAGE internal STRICT IMMUTABLE AS 'hashvarlena';
            CREATE OPERATOR ext.= (LEFTARG = ext.word, RIGHTARG = ext.word, FUNCTION = ext.eq, HASHES);
            CREATE OPERATOR CLASS ext.word_ops DEFAULT FOR TYPE ext.word USING hash AS
                OPERATOR 1 ext.= (ext.word, ext.word), FUNCTION 1 ext.hash(ext.word);
            CREATE DOMAIN ext.short AS ext.word; CREATE DOMAIN ext.small AS integer;
            CREATE TYPE ext.mood AS ENUM ('ok'); CREATE TYPE ext.pair AS (a integer, b ext.word);
            CREATE TABLE public.e (plain ext.word, over ext.short, several ext.word[], pair ext.pair,
                small ext.small, mood ext.mood, name varchar(5), moods ext.mood[]);
            SET search_path = pg_catalog
            """
        )
        found = {column.name: column.has_equality for column in table(snapshot(conn), TableName("public", "e")).columns}
        for name, has_equality in found.items():
            query = sql.SQL("SELECT {0} IS DISTINCT FROM {0} FROM public.e").format(sql.Identifier(name))
            try:
                conn.execute(query)
                works = True
            except psycopg.errors.UndefinedFunction:
                works = False
            assert works == has_equality, name
    assert {name for name, has_equality in found.items() if not has_equality} == {"plain", "over"}


@pytest.mark.every_version
def test_what_hangs_on_a_table_is_read(nasty: Target) -> None:
    catalog = read(nasty)
    customer, order = table(catalog, CUSTOMER), table(catalog, ORDER)
    indexes = {index.name: index for index in customer.indexes}
    assert indexes["customer_lower_d_last_idx"].columns == ("d", "last", "first", "old_ref")
    assert indexes["Üx"].unique
    assert indexes["customer_pkey"].constraint == "customer_pkey"
    constraints = {constraint.name: constraint for constraint in order.constraints}
    assert constraints["order_cust_fkey"].references == CUSTOMER
    assert constraints["order_cust_fkey"].referenced_columns == ("id",)
    assert constraints["order_cust_fkey"].deferrable
    assert not constraints["nv"].validated
    assert all(constraint.kind != "not_null" for constraint in order.constraints)
    assert [
        (trigger.name, trigger.enabled, trigger.before_row, trigger.on_update) for trigger in customer.triggers
    ] == [
        ("touch", "O", True, True),
        ("touch2", "D", False, False),
    ]
    assert customer.options == ("fillfactor=80", "force_row_security=true", "toast.autovacuum_enabled=false")
    assert customer.row_security
    assert customer.primary_key is not None


@pytest.mark.every_version
def test_dependents_are_found_with_the_columns_they_read(nasty: Target) -> None:
    customer, order = table(read(nasty), CUSTOMER), table(read(nasty), ORDER)
    found = {(item.kind, item.name): item.columns for item in customer.dependents}
    assert found["view", "shop.upd"] == ("id", "last")
    assert found["view", "shop.v1"] == ("id", "first")
    assert found["policy", "p2 ON shop.customer"] == ("last",)
    assert found["generated column", "shop.customer.full_name"] == ("first", "last")
    assert found["statistics", "shop.st"] == ("first", "d")
    assert found["sequence", "shop.customer_id_seq"] == ("id",)
    assert found["function", "shop.rowf(c shop.customer)"] == ()
    assert ("publication", "pub") in found
    views = [item.name for item in customer.dependents if "view" in item.kind]
    assert views.index("shop.v1") < views.index('"Odd Schema"."V two"') < views.index("shop.mv")
    others = {(item.kind, item.name) for item in order.dependents}
    assert ("rule", 'r1 ON shop."order"') in others
    assert ("policy", "p1 ON shop.customer") in others


@pytest.mark.needs_major(14)
def test_a_function_with_a_parsed_body_depends_on_its_columns(nasty: Target) -> None:
    with connect(nasty, role="test") as conn:
        conn.execute(
            "CREATE FUNCTION shop.atomic(i bigint) RETURNS text LANGUAGE sql"
            " BEGIN ATOMIC SELECT c.last FROM shop.customer c WHERE c.id = i; END"
        )
        dependents = table(snapshot(conn), CUSTOMER).dependents
    assert ("shop.atomic(i bigint)", ("id", "last")) in {(item.name, item.columns) for item in dependents}


def test_partitions_and_inheritance_are_told(nasty: Target) -> None:
    catalog = read(nasty)
    part = TableName("shop", "part")
    assert table(catalog, TableName("shop", "part_1")).partition_of == part
    assert "partition_key=RANGE (d)" in table(catalog, part).options
    assert table(catalog, TableName("shop", "child")).inherits == (TableName("shop", "parent"),)
    references = [c for c in table(catalog, TableName("shop", "refs_part")).constraints if c.kind == "foreign_key"]
    assert len(references) == 1


def test_system_lockstep_and_temporary_objects_are_left_out(nasty: Target) -> None:
    with connect(nasty, role="test") as conn:
        before = snapshot(conn)
        conn.execute("CREATE SCHEMA lockstep; CREATE TABLE lockstep.x (a int); COMMENT ON TABLE lockstep.x IS 'x'")
        conn.execute("CREATE FUNCTION lockstep.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TEMP TABLE y (a int)")
        assert snapshot(conn) == before
    assert {name.schema for name in (t.name for t in before.tables)} == {"public", "shop"}


def test_a_snapshot_is_deterministic_and_travels_as_json(nasty: Target) -> None:
    with connect(nasty, role="test", settings=[("search_path", "shop, public")]) as conn:
        first = snapshot(conn)
        conn.execute("SET search_path TO public")
        assert snapshot(conn) == first
    assert Catalog.model_validate_json(first.model_dump_json()) == first


def test_a_snapshot_leaves_the_transaction_around_it_alone(drink_water: Target) -> None:
    with connect(drink_water, role="test") as conn, conn.transaction():
        conn.execute("SET LOCAL search_path TO public; SET LOCAL lock_timeout = '7s'; ALTER TABLE users ADD x int")
        assert table(snapshot(conn), TableName("public", "users")).column("x") is not None
        assert conn.info.transaction_status == TransactionStatus.INTRANS
        assert conn.execute("SHOW search_path").fetchone() == ("public",)
        assert conn.execute("SHOW lock_timeout").fetchone() == ("7s",)
        conn.execute("CREATE TABLE still_writable (a int)")


def test_a_snapshot_gives_up_behind_an_exclusive_lock_and_names_the_holder(drink_water: Target) -> None:
    with connect(drink_water, role="test") as conn:
        conn.execute("CREATE VIEW v AS SELECT email FROM users")
        with connect(drink_water, role="holder", autocommit=False) as holder:
            holder.execute("LOCK TABLE users, v IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(LockNotAcquired) as caught:
                snapshot(conn)
            holder.rollback()
        assert any("lockstep:holder" in blocker and "users" in blocker for blocker in caught.value.blockers)
        assert snapshot(conn).tables


def test_a_thousand_tables_take_seconds(database: Target) -> None:
    with connect(database, role="test") as conn:
        conn.execute(
            "DO $$ BEGIN FOR n IN 1..1000 LOOP EXECUTE format("
            "'CREATE TABLE t%s (id bigint PRIMARY KEY, a int CHECK (a > 0), b text DEFAULT now()::text, c int)', n);"
            " IF n % 100 = 0 THEN COMMIT; END IF; END LOOP; END $$"
        )
        started = time.monotonic()
        catalog = snapshot(conn)
        took = time.monotonic() - started
    assert len(catalog.tables) == 1000
    assert sum(len(t.columns) + len(t.indexes) + len(t.constraints) for t in catalog.tables) == 7000
    assert took < 10


# ------------------------------------------------------------------------------------------------ meaning of DDL


@pytest.mark.every_version
def test_the_meaning_of_the_example(drink_water: Target) -> None:
    statements = load(DRINK_WATER / "intake-v2.yaml").statements()
    with connect(drink_water, role="test") as conn:
        conn.execute("TRUNCATE users CASCADE")  # a clone has no rows
        trace = trace_change(conn, statements, [("TimeZone", "UTC"), ("search_path", "public")])
        before, after = trace.before, trace.after
    intake = "public.water_intake"
    assert [(item.describe(), getattr(item, "consequence", False)) for item in changes(before, after)] == [
        ("column public.users.notification_enabled boolean is added", False),
        (
            f"column {intake}.date_time_utc is renamed to recorded_at, "
            "changed from timestamp without time zone to timestamp with time zone",
            False,
        ),
        (f"column {intake}.volume is dropped", False),
        (f"column {intake}.volume_unit is dropped", False),
        (f"column {intake}.volume_ml numeric(8,2) is added", False),
        (f"constraint water_intake_user_id_date_time_utc_key of {intake} becomes UNIQUE (user_id, recorded_at)", True),
        (f"constraint water_intake_volume_check of {intake} is dropped", True),
        (f"constraint water_intake_volume_unit_check of {intake} is dropped", True),
        (
            f"constraint water_intake_volume_ml_check CHECK ((volume_ml > (0)::numeric)) is added to {intake}",
            False,
        ),
        (
            f"index water_intake_user_id_date_time_utc_key on {intake} becomes CREATE UNIQUE INDEX "
            "water_intake_user_id_date_time_utc_key ON public.water_intake USING btree (user_id, recorded_at)",
            True,
        ),
        (f"index idx_intake_user_recorded on {intake} is created", False),
    ]


@pytest.mark.every_version
def test_everything_follows_a_rename(nasty: Target) -> None:
    for text in (
        "ALTER TABLE shop.customer RENAME first TO given",
        "ALTER TABLE shop.customer RENAME id TO cid",
        'ALTER TABLE shop."order" RENAME qty TO amount',
        "ALTER TABLE shop.part RENAME note TO remark",
    ):
        found = meaning(nasty, text)
        explicit = [item for item in found if not getattr(item, "consequence", False)]
        assert explicit
        assert all(isinstance(item, ColumnChanged) and item.renamed for item in explicit), text
        assert len(found) > len(explicit)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "ALTER TABLE shop.customer ADD CONSTRAINT x CHECK (d IS NOT NULL);"
            "ALTER TABLE shop.customer ALTER d SET NOT NULL;"
            "ALTER TABLE shop.customer DROP CONSTRAINT x",
            [("column shop.customer.d is made NOT NULL", False)],
        ),
        (
            'ALTER TABLE shop."order" RENAME CONSTRAINT order_pkey TO opk',
            [
                ("constraint order_pkey of shop.order is renamed to opk", False),
                ("index order_pkey on shop.order is renamed to opk", True),
            ],
        ),
        (
            'ALTER TABLE shop."order" DROP span',
            [
                ("column shop.order.span is dropped", False),
                ("constraint order_span_excl of shop.order is dropped", True),
                ("index order_span_excl on shop.order is dropped", True),
            ],
        ),
        (
            'ALTER TABLE shop."order" DROP CONSTRAINT nv, ADD CONSTRAINT nv CHECK (qty > 5)',
            [("constraint nv of shop.order becomes CHECK ((qty > 5))", False)],
        ),
        ("ALTER TYPE shop.mood ADD VALUE 'z'", [("enum shop.mood is changed", False)]),
        ("ALTER DOMAIN shop.email2 DROP NOT NULL", [("domain shop.email2 is changed", False)]),
        ("DROP RULE r1 ON shop.\"order\"", [('rule r1 ON shop."order" is dropped', False)]),
        ("ALTER POLICY p2 ON shop.customer WITH CHECK (true)", [("policy p2 ON shop.customer is changed", False)]),
        ("ALTER TABLE shop.customer DISABLE TRIGGER touch", [("trigger touch on shop.customer is changed", False)]),
        ("CREATE SCHEMA zz", [("privileges schema zz is created", True), ("schema zz is created", False)]),
        (
            "CREATE OPERATOR shop.!! (RIGHTARG = int, FUNCTION = int4um)",
            [("operator shop.!!(NONE,integer) is created", False)],
        ),
        ("COMMENT ON VIEW shop.v1 IS 'x'", [("comment view shop.v1 is created", False)]),
        (
            "GRANT SELECT ON public.nokey TO PUBLIC",
            [("privileges on public.nokey change: 1 granted, 0 revoked", False)],
        ),
        (
            "ALTER TABLE public.nokey SET (fillfactor = 50)",
            [("fillfactor of public.nokey changes from nothing to 50", False)],
        ),
        ("ALTER TABLE shop.parent RENAME TO forebear", [
            ("inherits of shop.child changes from shop.parent to shop.forebear", False),
            ("table shop.parent is renamed to shop.forebear", False),
        ]),
        (
            "DROP TABLE public.nokey CASCADE",
            [
                ("table public.nokey is dropped", False),
                ("privileges view public.vx is dropped", True),
                ("view public.vx is dropped", False),
            ],
        ),
    ],
)  # fmt: skip
def test_the_meaning_of_single_statements(nasty: Target, text: str, expected: list[tuple[str, bool]]) -> None:
    assert sorted(told(nasty, text)) == sorted(expected)


def test_a_grant_on_a_column_follows_its_rename(nasty: Target) -> None:
    with connect(nasty, role="test") as conn:
        conn.execute("GRANT SELECT (id) ON shop.customer TO PUBLIC")
        assert table(snapshot(conn), CUSTOMER).grants == ("GRANT SELECT (id) ON TABLE shop.customer TO PUBLIC",)
    assert "grants_changed" not in {item.kind for item in meaning(nasty, "ALTER TABLE shop.customer RENAME id TO cid")}


def test_a_failing_statement_is_told_with_its_place(drink_water: Target) -> None:
    text = "ALTER TABLE users ADD x int;\nALTER TABLE users\n  ADD y int,\n  ADD email text"
    with connect(drink_water, role="test") as conn:
        with pytest.raises(SpecError) as caught:
            trace_change(conn, parse_change(text, source="change"))
        assert 'Statement 2 of the change (line 2) fails on a clone of the schema: column "email"' in caught.value.what
        with pytest.raises(SpecError, match=r'line 3\).*type "nope" does not exist'):
            trace_change(conn, parse_change("\nALTER TABLE users\n ADD z nope", source="change"))


def test_concurrently_is_measured_without_it(drink_water: Target) -> None:
    assert told(drink_water, "CREATE INDEX CONCURRENTLY x ON users (full_name)") == [
        ("index x on public.users is created", False)
    ]


def test_an_invalid_index_changes_the_hash(drink_water: Target) -> None:
    users = [TableName("public", "users")]
    with connect(drink_water, role="test") as conn:
        conn.execute("CREATE INDEX x ON users (full_name)")
        valid = schema_hash(snapshot(conn), users)
        conn.execute("DROP INDEX x")
        conn.execute("UPDATE users SET full_name = 'same'")
        with pytest.raises(psycopg.errors.UniqueViolation):
            conn.execute("CREATE UNIQUE INDEX CONCURRENTLY x ON users (full_name)")
        left = table(snapshot(conn), users[0])
        assert [index.valid for index in left.indexes if index.name == "x"] == [False]
        assert schema_hash(snapshot(conn), users) != valid


@pytest.mark.skipif(server_major() < 18, reason="PostgreSQL 18 can leave a NOT NULL unvalidated")
def test_an_unvalidated_not_null_is_no_not_null(drink_water: Target) -> None:
    with connect(drink_water, role="test") as conn:
        conn.execute("ALTER TABLE users ADD CONSTRAINT n NOT NULL full_name NOT VALID")
        users = table(snapshot(conn), TableName("public", "users"))
    column = users.column("full_name")
    assert column is not None
    assert not column.not_null
    assert [constraint.name for constraint in users.constraints if constraint.kind == "not_null"] == ["n"]
