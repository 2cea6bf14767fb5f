"""Schema clones: equal to the live schema or refused, used in copies, gone afterwards."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tasks.database import clone as clone_module
from tasks.database import scratch as scratch_module
from tasks.database.catalog import snapshot
from tasks.database.clone import SchemaClone, dump_schema, scratch_place
from tasks.database.connection import Target, connect
from tasks.database.inspection import inspect_server
from tasks.database.oracle import _tried_on
from tasks.database.scratch import SCRATCH_PREFIX
from tasks.database.server import EmbeddedServer
from tasks.planning.errors import CannotConnect, LockNotAcquired, MigrationError, MissingPrivilege, SchemaChanged
from tasks.planning.schema_hash import catalog_text
from tests.conftest import AnyServer, server_major
from tests.integration.staging import planned, written

NASTY = (Path(__file__).parent / "nasty_schema.sql").read_bytes()

Scratch = EmbeddedServer | Target


def scratch_databases(server: AnyServer) -> set[str]:
    with psycopg.connect(server.url("postgres")) as conn:
        rows = conn.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (SCRATCH_PREFIX,))
        return {str(row[0]) for row in rows.fetchall()}


def text_of(target: Target) -> str:
    with connect(target, role="test") as conn:
        return catalog_text(snapshot(conn))


@pytest.mark.every_version
def test_a_clone_has_the_schema_and_no_rows(drink_water: Target, scratch: Scratch) -> None:
    with SchemaClone(drink_water, scratch) as clone:
        copy = clone.fresh()
        assert text_of(copy) == text_of(drink_water) == catalog_text(clone.live)
        with connect(copy, role="test") as conn:
            assert conn.execute("SELECT count(*) FROM water_intake").fetchone() == (0,)


@pytest.mark.every_version
def test_a_schema_with_one_of_everything_is_cloned_exactly(database: Target, scratch: Scratch) -> None:
    with connect(database, role="test") as conn:
        conn.execute(NASTY)
    with SchemaClone(database, scratch) as clone:
        assert text_of(clone.fresh()) == text_of(database)
        assert len(clone.live.tables) == 10


def test_copies_do_not_see_each_other_and_all_are_dropped(
    drink_water: Target, scratch: Scratch, server: AnyServer
) -> None:
    before = scratch_databases(server)
    with SchemaClone(drink_water, scratch) as clone:
        first, second = clone.fresh(), clone.fresh()
        with connect(first, role="test") as conn:
            conn.execute("DROP TABLE users CASCADE")
        assert text_of(second) == text_of(drink_water)
        assert len(scratch_databases(server) - before) == 3
        left_open = connect(second, role="test")
    assert scratch_databases(server) == before
    with pytest.raises(psycopg.OperationalError):
        left_open.execute("SELECT 1")
    left_open.close()


def test_copies_are_dropped_when_the_block_fails(drink_water: Target, scratch: Scratch, server: AnyServer) -> None:
    before = scratch_databases(server)
    with pytest.raises(psycopg.errors.UndefinedTable):
        _fail_inside(drink_water, scratch)
    assert scratch_databases(server) == before


def _fail_inside(target: Target, scratch: Scratch) -> None:
    with SchemaClone(target, scratch) as clone, connect(clone.fresh(), role="test") as conn:
        conn.execute("SELECT * FROM nope")


def test_it_is_of_use_only_inside_its_block(drink_water: Target, scratch: Scratch) -> None:
    clone = SchemaClone(drink_water, scratch)
    with pytest.raises(RuntimeError):
        clone.fresh()
    with pytest.raises(RuntimeError):
        _ = clone.live


def test_a_clone_that_is_not_the_live_schema_is_refused(
    drink_water: Target, scratch: Scratch, server: AnyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = scratch_databases(server)

    def while_the_schema_changes(target: Target, major: int) -> str:
        text = dump_schema(target, major)
        with connect(target, role="test") as conn:
            conn.execute("ALTER TABLE users ADD COLUMN meanwhile int")
        return text

    monkeypatch.setattr(clone_module, "dump_schema", while_the_schema_changes)
    with pytest.raises(SchemaChanged, match=r"missing: column public.users 'meanwhile' integer"):
        SchemaClone(drink_water, scratch).__enter__()
    assert scratch_databases(server) == before


def test_lockstep_s_own_schema_and_triggers_stay_behind(drink_water: Target, scratch: Scratch) -> None:
    with connect(drink_water, role="test") as conn:
        conn.execute(
            "CREATE SCHEMA lockstep; CREATE TABLE lockstep.migration (name text);"
            "CREATE FUNCTION lockstep.sync_1() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
            "CREATE TRIGGER lockstep_zz_1 BEFORE INSERT OR UPDATE ON users FOR EACH ROW"
            " WHEN (current_setting('lockstep.direction', true) IS DISTINCT FROM 'none')"
            " EXECUTE FUNCTION lockstep.sync_1();"
            "ALTER TABLE users ENABLE ALWAYS TRIGGER lockstep_zz_1"
        )
    with SchemaClone(drink_water, scratch) as clone, connect(clone.fresh(), role="test") as conn:
        assert conn.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'lockstep'").fetchone() == (0,)
        assert conn.execute("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal").fetchone() == (0,)


def test_a_thing_in_a_function_body_is_not_taken_for_psql_s(database: Target, scratch: Scratch) -> None:
    body = "\\restrict abc\n\\unrestrict abc\n-- SET transaction_timeout = 0;\n; SELECT 1"
    with connect(database, role="test") as conn:
        conn.execute(
            sql.SQL("CREATE FUNCTION odd() RETURNS text LANGUAGE sql AS {}").format("SELECT $x$" + body + "$x$")
        )
    with SchemaClone(database, scratch) as clone:
        assert text_of(clone.fresh()) == text_of(database)


def test_the_clone_is_made_where_the_schema_s_extensions_are(
    database: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with connect(database, role="test") as conn:
        facts = inspect_server(conn)
        with scratch_place(database, facts) as chosen:
            assert isinstance(chosen, EmbeddedServer)
            assert chosen.running
            assert chosen.major == (16 if facts.major <= 16 else 18)
            # No extension exists that the embedded server lacks and this one has: one is renamed to look like it.
            conn.execute("SET allow_system_table_mods = on")
            conn.execute("UPDATE pg_extension SET extname = 'nowhere' WHERE extname = 'plpgsql'")
            with scratch_place(database, facts) as other:
                assert other == database
            assert chosen.running, "a block inside another one stopped the server"
        assert not chosen.running
        chosen.remove()


@pytest.mark.every_version
def test_the_plan_says_where_the_change_was_tried(database: Target, tmp_path: Path) -> None:
    plan = planned(database, "CREATE TABLE t (a int)", written(tmp_path, "tried", "ALTER TABLE t ADD b int"))
    told = [note.text for note in plan.notes if "was tried" in note.text]
    major = server_major()
    nearest = 16 if major <= 16 else 18
    away = f"The change was tried on PostgreSQL {nearest}, the embedded version next to {major}."
    assert told == ([] if major == nearest else [away])
    (elsewhere,) = _tried_on(database, major)
    assert "scratch databases on the live server itself" in elsewhere.text


# ------------------------------------------------------------------------------------------------ roles and secrets


@pytest.fixture
def login(database: Target) -> Iterator[Target]:
    """A role without any privilege, with a password, on the empty database."""
    with connect(database, role="test") as conn:
        conn.execute(
            "CREATE ROLE clone_login LOGIN PASSWORD 'geheim-9f' NOSUPERUSER NOCREATEDB; CREATE TABLE t (a int)"
        )
    yield Target("named", make_conninfo(database.conninfo, user="clone_login", password="geheim-9f"))
    with connect(database, role="test") as conn:
        conn.execute("DROP OWNED BY clone_login; DROP ROLE clone_login")


def test_a_role_that_may_not_read_is_told_what_to_grant(login: Target, scratch: Scratch) -> None:
    with pytest.raises(MissingPrivilege, match="permission denied for table t") as caught:
        SchemaClone(login, scratch).__enter__()
    assert caught.value.grant == "GRANT pg_read_all_data TO clone_login"
    assert "geheim" not in str(caught.value)


def test_a_role_that_may_not_create_databases_is_told_what_to_grant(login: Target, database: Target) -> None:
    with connect(database, role="test") as conn:
        conn.execute("GRANT SELECT ON t TO clone_login")
    with pytest.raises(MissingPrivilege) as caught:
        SchemaClone(login, login).__enter__()
    assert caught.value.grant == 'ALTER ROLE "clone_login" CREATEDB'
    assert "geheim" not in str(caught.value)


def test_the_password_goes_by_the_environment(login: Target, database: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(database, role="test") as conn:
        conn.execute("GRANT SELECT ON t TO clone_login")
    seen: list[list[str]] = []
    run = subprocess.run

    def watched(command: list[str], **options: object) -> object:
        seen.append(command)
        return run(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", watched)
    assert "CREATE TABLE public.t" in dump_schema(login, server_major())
    (command,) = seen
    assert "geheim" not in " ".join(command)


def test_a_lock_that_is_held_ends_the_dump(drink_water: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clone_module, "DUMP_OPTIONS", (*clone_module.DUMP_OPTIONS, "--lock-wait-timeout=200"))
    with connect(drink_water, role="holder", autocommit=False) as holder:
        holder.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(LockNotAcquired, match="ACCESS EXCLUSIVE"):
            dump_schema(drink_water, server_major())
        holder.rollback()


def test_a_scratch_database_that_somebody_has_locked_is_named_when_it_cannot_go(
    drink_water: Target, scratch: Scratch, server: AnyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Target("test", server.url("postgres"))
    with connect(place, role="test", autocommit=False) as holder:
        clone = SchemaClone(drink_water, scratch).__enter__()
        (name,) = scratch_databases(server)
        holder.execute(sql.SQL("COMMENT ON DATABASE {} IS 'mine'").format(sql.Identifier(name)))
        monkeypatch.setattr(scratch_module, "DATABASE_TIMEOUT_MS", 200)
        with pytest.raises(MigrationError, match=f"{name} .* could not be dropped") as refused:
            clone.__exit__(None, None, None)
        assert f"DROP DATABASE {name};" in (refused.value.remedy or "")
        holder.rollback()
        clone.__exit__(None, None, None)
    assert scratch_databases(server) == set()


def test_a_server_that_does_not_answer_is_told(database: Target) -> None:
    with pytest.raises(CannotConnect) as caught:
        dump_schema(Target("gone", make_conninfo(database.conninfo, port="1", password="geheim-9f")), server_major())
    assert "geheim" not in str(caught.value)
