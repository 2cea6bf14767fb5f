"""Constraints and indexes over columns that the running application writes: which phase, which locks, and back."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tasks.database import oracle
from tasks.database.connection import Target
from tasks.database.index_build import reindex
from tasks.database.runner import open_runner
from tasks.planning.errors import StepFailed, UsageError
from tasks.planning.names import TableName
from tasks.planning.plan import BuildIndex, Plan, Reindex, Transaction
from tests.conftest import AnyServer, _new_database
from tests.integration.staging import PHASES, carry_out, failing, undo, written
from tests.integration.synthetic import ask, ignore, register, start_phase
from tests.integration.test_planner import hash_of

SCHEMA = """
CREATE TABLE customer (id int PRIMARY KEY, name text NOT NULL, email text, code int NOT NULL);
CREATE UNIQUE INDEX customer_code ON customer (code);
CREATE TABLE orders (
    id int PRIMARY KEY, customer_id int, total numeric, state text DEFAULT 'new', note text NOT NULL DEFAULT '',
    parent_id int, seen int, ref text, span int4range,
    CONSTRAINT orders_total CHECK (total >= 0),
    CONSTRAINT orders_ref_key UNIQUE (ref),
    CONSTRAINT orders_parent FOREIGN KEY (parent_id) REFERENCES orders (id)
);
ALTER TABLE orders ADD CONSTRAINT orders_seen CHECK (seen > 0) NOT VALID;
COMMENT ON CONSTRAINT orders_ref_key ON orders IS 'the reference';
CREATE INDEX orders_customer ON orders (customer_id);
CREATE INDEX orders_state ON orders (state) WITH (fillfactor = 90);
CREATE TABLE log (at timestamptz NOT NULL, n int, what text);
CREATE UNIQUE INDEX log_at ON log (at);
CREATE TABLE part (id int NOT NULL, v int) PARTITION BY RANGE (id);
CREATE TABLE base (id int);
CREATE TABLE child () INHERITS (base);
INSERT INTO customer SELECT n, 'name ' || n, 'e' || n, n FROM generate_series(1, 20) AS n;
INSERT INTO orders (id, customer_id, total, parent_id, seen, ref)
SELECT n, n, n, n, n, 'r' || n FROM generate_series(1, 20) AS n;
INSERT INTO log SELECT now() + n * interval '1 s', n, 'w' FROM generate_series(1, 20) AS n;
"""

DEMANDS = """
ALTER TABLE orders ALTER customer_id SET NOT NULL, ALTER total SET NOT NULL;
ALTER TABLE orders ADD CONSTRAINT positive CHECK (id > 0);
ALTER TABLE orders ADD CONSTRAINT orders_seller FOREIGN KEY (seen) REFERENCES customer (id) ON DELETE RESTRICT;
ALTER TABLE customer ADD CONSTRAINT customer_email_key UNIQUE (email) DEFERRABLE INITIALLY DEFERRED;
COMMENT ON CONSTRAINT customer_email_key ON customer IS 'one account a person';
ALTER TABLE log ADD PRIMARY KEY (n);
CREATE UNIQUE INDEX orders_lower ON orders (lower(ref) text_pattern_ops) WHERE total > 0;
ALTER TABLE orders ALTER state SET DEFAULT 'open', ALTER note DROP DEFAULT;
"""
OPENINGS = """
ALTER TABLE orders DROP CONSTRAINT orders_total, DROP CONSTRAINT orders_ref_key, ALTER note DROP NOT NULL;
ALTER TABLE orders DROP CONSTRAINT orders_parent,
  ADD CONSTRAINT orders_parent FOREIGN KEY (parent_id) REFERENCES orders (id) ON DELETE CASCADE;
ALTER TABLE orders VALIDATE CONSTRAINT orders_seen;
ALTER TABLE log ADD CONSTRAINT log_pk PRIMARY KEY USING INDEX log_at;
ALTER INDEX orders_state SET (fillfactor = 70);
ALTER INDEX orders_customer RENAME TO orders_by_customer;
REINDEX TABLE CONCURRENTLY customer;
REINDEX INDEX orders_state;
CREATE INDEX orders_recent ON orders USING gist (span) WHERE seen > 3;
CREATE INDEX orders_cents ON orders ((total * 100), lower(ref));
"""
SUCCESSIONS = """
DROP INDEX orders_state;
CREATE INDEX orders_state ON orders (state, id DESC NULLS LAST) INCLUDE (total);
ALTER TABLE orders DROP CONSTRAINT orders_ref_key, ADD CONSTRAINT orders_ref_key UNIQUE (ref) DEFERRABLE;
ALTER TABLE orders RENAME CONSTRAINT orders_pkey TO orders_key;
ALTER TABLE orders DROP CONSTRAINT orders_total, ADD CONSTRAINT orders_total CHECK (total > -1);
ALTER TABLE log ADD UNIQUE (at, n);
ALTER TABLE customer RENAME name TO full_name;
ALTER TABLE customer ALTER email SET NOT NULL;
"""
CHANGES = {"demands": DEMANDS, "openings": OPENINGS, "successions": SUCCESSIONS}

REFUSED = {
    "exclusion": ("ALTER TABLE orders ADD EXCLUDE USING gist (span WITH &&)", "exclusion constraint .*quiet hour"),
    "an index of a partitioned table": ("CREATE INDEX ON part (v)", "public.part, which is partitioned"),
    "a CHECK that children inherit": ("ALTER TABLE base ADD CHECK (id > 0)", "children by inheritance"),
    "REINDEX SCHEMA": ("REINDEX SCHEMA public", "REINDEX SCHEMA.*Name the tables"),
    "REINDEX into another tablespace": ("REINDEX (TABLESPACE x) TABLE orders", "TABLESPACE"),
    "an index in a tablespace": ("CREATE INDEX ON orders (note) TABLESPACE x", "TABLESPACE"),
    "REINDEX of what is not there": ("REINDEX INDEX nothing", "relation .nothing. does not exist"),
    "CLUSTER": ("CLUSTER orders USING orders_state", "CLUSTER"),
    "a predicate that is not immutable": (
        "CREATE INDEX ON orders (id) WHERE state = CURRENT_DATE::text",
        "functions in index predicate must be marked IMMUTABLE",
    ),
    "a foreign key to a column that moves": (
        "ALTER TABLE customer RENAME code TO number;"
        " ALTER TABLE orders ADD FOREIGN KEY (seen) REFERENCES customer (number)",
        "same change brings, renames",
    ),
}


@pytest.fixture(scope="module")
def shop(server: AnyServer) -> Iterator[Target]:
    """A database to plan on and to copy; planning only reads it."""
    with _new_database(server, "template0") as target:
        with psycopg.connect(target.conninfo, autocommit=True) as connection:
            connection.execute(SCHEMA.encode())
        yield target


@pytest.fixture
def copy(server: AnyServer, shop: Target) -> Iterator[Target]:
    with _new_database(server, shop.name) as target:
        yield target


@pytest.fixture(scope="module")
def plans(shop: Target, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plan]:
    folder = tmp_path_factory.mktemp("specs")
    return {name: oracle.plan(written(folder, name, change), shop) for name, change in CHANGES.items()}


def steps(plan: Plan, phase: str) -> dict[str, str]:
    """Return the locks of each step of a phase, as ``MODE table``."""
    if phase not in [one.name for one in plan.phases]:
        return {}
    return {
        step.id: ", ".join(f"{lock.mode} {lock.table.name}" for lock in step.locks) for step in plan.phase(phase).steps
    }


def refused(target: Target, statement: str) -> str | None:
    """Return the SQLSTATE with which an application's statement is refused, None when it stands."""
    try:
        ask(target, statement)
    except psycopg.Error as error:
        return error.sqlstate
    return None


@pytest.mark.every_version
@pytest.mark.parametrize("name", CHANGES)
def test_every_phase_leads_to_the_target_and_back(plans: dict[str, Plan], copy: Target, name: str) -> None:
    plan = plans[name]
    reversible = [p.name for p in plan.phases if all(isinstance(step.undo, tuple) for step in p.steps)]
    carry_out(copy, plan, reversible)
    undo(copy, plan, reversible)
    assert hash_of(copy, plan) == plan.schema_before
    for phase in plan.phases:
        assert failing(copy, phase.gate_before) == {} if phase.gate_before else True
        carry_out(copy, plan, [phase.name])
        assert failing(copy, phase.gate_after) == {} if phase.gate_after else True
    assert hash_of(copy, plan) == plan.schema_target


class TestDemands:
    def test_they_are_made_in_contract_each_scan_and_build_by_itself(self, plans: dict[str, Plan]) -> None:
        plan = plans["demands"]
        assert [phase.name for phase in plan.phases] == ["expand", "switch", "contract"]
        assert steps(plan, "switch") == {"open/default/public.orders.state": "ACCESS EXCLUSIVE orders"}
        assert steps(plan, "contract") == {
            "contract/index/customer_email_key": "SHARE UPDATE EXCLUSIVE customer",
            "contract/attach/public.customer.customer_email_key": "ACCESS EXCLUSIVE customer",
            "contract/not-null/public.log": "ACCESS EXCLUSIVE log",
            "contract/validate-not-null/public.log": "SHARE UPDATE EXCLUSIVE log",
            "contract/set-not-null/public.log": "ACCESS EXCLUSIVE log",
            "contract/index/log_pkey": "SHARE UPDATE EXCLUSIVE log",
            "contract/attach/public.log.log_pkey": "ACCESS EXCLUSIVE log",
            "contract/not-null/public.orders": "ACCESS EXCLUSIVE orders",
            "contract/validate-not-null/public.orders": "SHARE UPDATE EXCLUSIVE orders",
            "contract/set-not-null/public.orders": "ACCESS EXCLUSIVE orders",
            "contract/drop-default/public.orders.note": "ACCESS EXCLUSIVE orders",
            "contract/check/public.orders.positive": "ACCESS EXCLUSIVE orders",
            "contract/validate/public.orders.positive": "SHARE UPDATE EXCLUSIVE orders",
            "contract/index/orders_lower": "SHARE UPDATE EXCLUSIVE orders",
            "contract/analyze/orders_lower": "SHARE UPDATE EXCLUSIVE orders",
            "contract/foreign-key/public.orders.orders_seller": (
                "SHARE ROW EXCLUSIVE orders, SHARE ROW EXCLUSIVE customer"
            ),
            "contract/validate/public.orders.orders_seller": "SHARE UPDATE EXCLUSIVE orders, ROW SHARE customer",
        }
        exclusive = [
            step
            for step in plan.phase("contract").steps
            if any(lock.mode.endswith(" EXCLUSIVE") and "UPDATE" not in lock.mode for lock in step.locks)
        ]
        assert all(step.lock_timeout_ms <= 60 and step.statement_timeout_ms <= 5_000 for step in exclusive)
        validating = [step.action for step in plan.phase("contract").steps if "/validate" in step.id]
        assert len(validating) == 4
        assert all(isinstance(action, Transaction) and len(action.statements) == 1 for action in validating)

    def test_the_word_that_contract_asks_for_names_them_all(self, plans: dict[str, Plan]) -> None:
        approval = plans["demands"].phase("contract").approval
        assert approval is not None
        for demand in (
            "customer_id NOT NULL",
            "positive CHECK",
            "orders_seller FOREIGN KEY",
            "customer_email_key UNIQUE",
        ):
            assert demand in approval.question
        warned = [note.text for note in plans["demands"].notes if note.severity == "WARNING"]
        assert [text for text in warned if "No index of public.orders begins with seen" in text]
        assert [text for text in warned if "ON CONFLICT (email) fails (42P10): the new version must not" in text]

    def test_the_old_version_may_break_them_until_contract(self, plans: dict[str, Plan], copy: Target) -> None:
        plan = plans["demands"]
        carry_out(copy, plan, ["expand", "switch"])
        statements = {
            "23502": "INSERT INTO orders (id, customer_id) VALUES (99, NULL)",
            "23514": "INSERT INTO orders (id, customer_id, total, note) VALUES (-1, 1, 1, '')",
            "23503": "INSERT INTO orders (id, customer_id, total, note, seen) VALUES (98, 1, 1, '', 99)",
            "23505": "INSERT INTO customer (id, name, email, code) VALUES (99, 'twin', 'e1', 99)",
        }
        for statement in statements.values():
            assert refused(copy, statement) is None
        ask(copy, "DELETE FROM orders WHERE id IN (99, 98, -1); DELETE FROM customer WHERE id = 99")
        carry_out(copy, plan, ["contract"])
        assert {refused(copy, statement) for statement in statements.values()} == set(statements)

    @pytest.mark.parametrize(
        ("fault", "check", "keys"),
        [
            ("UPDATE orders SET total = NULL WHERE id = 7", "not_null:public.orders:total", ["[7]"]),
            ("UPDATE orders SET id = -id WHERE id IN (3, 5)", "rule:public.orders:positive", ["[-5]", "[-3]"]),
            ("UPDATE orders SET seen = 77 WHERE id = 9", "orphans:public.orders:orders_seller", ["[9]"]),
            (
                "UPDATE customer SET email = 'e1' WHERE id = 2",
                "duplicates:public.customer:customer_email_key",
                ["[1]", "[2]"],
            ),
            ("UPDATE orders SET ref = 'R4' WHERE id = 8", "duplicates:public.orders:orders_lower", ["[4]", "[8]"]),
            ("UPDATE log SET n = 5 WHERE n = 6", "duplicates:public.log:log_pkey", []),
        ],
    )
    def test_both_gates_find_the_rows_that_break_one(
        self, plans: dict[str, Plan], copy: Target, fault: str, check: str, keys: list[str]
    ) -> None:
        plan = plans["demands"]
        gates = (plan.phase("expand").gate_before, plan.phase("contract").gate_before)
        assert [failing(copy, gate) for gate in gates] == [{}, {}]
        ask(copy, "UPDATE orders SET parent_id = NULL;" + fault)
        assert [failing(copy, gate) for gate in gates] == [{f"{check}:coming": keys}] * 2

    def test_killed_between_not_valid_and_validate_it_goes_on(self, plans: dict[str, Plan], copy: Target) -> None:
        plan = plans["demands"]
        prepare(copy, plan)
        place = "after:contract/check/public.orders.positive"
        process = start_phase(copy, "contract", {"LOCKSTEP_CRASH_AT": place, **QUICK}, migration=plan.name)
        _, error = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, error
        assert ask(copy, VALIDATED) == [(False,)]
        assert refused(copy, "INSERT INTO orders (id, customer_id, total, note) VALUES (-1, 1, 1, '')") == "23514"
        process = start_phase(copy, "contract", QUICK, migration=plan.name)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        assert ask(copy, VALIDATED) == [(True,)]
        assert hash_of(copy, plan) == plan.schema_target

    def test_a_duplicate_that_comes_after_the_gate_stops_it_and_leaves_nothing(
        self, plans: dict[str, Plan], copy: Target
    ) -> None:
        plan = plans["demands"]
        prepare(copy, plan)
        ask(copy, "UPDATE customer SET email = 'e1' WHERE id = 2")
        with open_runner(copy, plan.name) as runner:
            with pytest.raises(StepFailed, match="customer_email_key") as stopped:
                runner.run_phase("contract", ignore)
            assert stopped.value.sqlstate == "23505"
            assert ask(copy, "SELECT to_regclass('customer_email_key')") == [(None,)]
            ask(copy, "UPDATE customer SET email = 'e2' WHERE id = 2; UPDATE orders SET total = NULL WHERE id = 7")
            with pytest.raises(StepFailed, match="new ones are refused already") as stopped:
                runner.run_phase("contract", ignore)
            assert stopped.value.sqlstate == "23514"
            runner.undo_phase("contract", ignore)
        assert hash_of(copy, plan) == plan.phase("contract").schema_before


class TestOpenings:
    def test_a_change_that_demands_nothing_needs_no_switch(self, plans: dict[str, Plan]) -> None:
        plan = plans["openings"]
        assert plan.strategy == "direct"
        assert [phase.name for phase in plan.phases] == ["expand", "constrain"]
        found = steps(plan, "constrain")
        assert found["constrain/reindex/customer_pkey"] == "SHARE UPDATE EXCLUSIVE customer"
        assert found["open/drop-constraint/public.orders.orders_total"] == "ACCESS EXCLUSIVE orders"
        # What lets the new version's statements in comes last, when everything else has succeeded.
        assert list(found)[-5:] == [
            "exchange/foreign-key/public.orders.orders_parent",
            "exchange/validate/public.orders.orders_parent",
            "open/drop-constraint/public.orders.orders_ref_key",
            "open/drop-constraint/public.orders.orders_total",
            "open/nullable/public.orders.note",
        ]
        warned = [note.text for note in plan.notes if note.severity == "WARNING"]
        assert [text for text in warned if "ON CONFLICT (ref) fails (42P10)" in text]
        assert [text for text in warned if "orders_cents computes ((total * (100)::numeric)) for every row" in text]

    def test_every_index_of_a_reindexed_table_is_made_anew(self, plans: dict[str, Plan], copy: Target) -> None:
        actions = [step.action for step in plans["openings"].phase("constrain").steps]
        assert [a.index for a in actions if isinstance(a, Reindex)] == [
            "customer_code",
            "customer_pkey",
            "orders_state",
        ]
        files = "SELECT relname, pg_relation_filenode(oid) FROM pg_class WHERE relname ~ '^(customer_.*|orders_state)$'"
        before = {str(name): file for name, file in ask(copy, files)}
        carry_out(copy, plans["openings"], PHASES)
        after = {str(name): file for name, file in ask(copy, files)}
        assert before.keys() == after.keys()
        assert not set(before.values()) & set(after.values())

    def test_rows_that_an_old_constraint_refused_stop_the_way_back_and_no_more(
        self, plans: dict[str, Plan], copy: Target
    ) -> None:
        plan = plans["openings"]
        prepare(copy, plan, "constrain")
        ask(copy, "UPDATE orders SET total = -5 WHERE id = 3")
        with open_runner(copy, plan.name) as runner:
            with pytest.raises(StepFailed, match="orders_total") as stopped:
                runner.undo_phase("constrain", ignore)
            assert stopped.value.sqlstate == "23514"
            ask(copy, "UPDATE orders SET total = 5 WHERE id = 3")
            runner.undo_phase("constrain", ignore)
        assert hash_of(copy, plan) == plan.schema_before

    def test_what_a_failed_reindex_left_is_dropped(self, copy: Target) -> None:
        """A transaction older than the rebuild keeps it waiting, until its timeout."""
        left = "SELECT relname FROM pg_class WHERE relname ~ 'customer_code_cc'"
        with psycopg.connect(copy.conninfo, autocommit=True) as one, psycopg.connect(copy.conninfo) as other:
            other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            other.execute("SELECT 1")
            one.execute("SET statement_timeout = '300ms'")
            with pytest.raises(psycopg.errors.QueryCanceled):
                one.execute("REINDEX INDEX CONCURRENTLY customer_code")
            assert ask(copy, left) == [("customer_code_ccnew",)]
            other.rollback()
            action = Reindex(table=TableName("public", "customer"), index="customer_code")
            reindex(one, action, statement_timeout_ms=60_000)
        assert ask(copy, left) == []


class TestSuccessions:
    def test_a_successor_stands_before_what_it_replaces_is_dropped(self, plans: dict[str, Plan]) -> None:
        plan = plans["successions"]
        contract = [step.id for step in plan.phase("contract").steps]
        built = [step.action.index for step in plan.phase("constrain").steps if isinstance(step.action, BuildIndex)]
        # (at, n) is unique because (at) is: nothing that the old version writes can break it.
        assert "log_at_n_key" in built
        assert contract.index("contract/drop-index/orders_state") > contract.index("contract/public.customer")
        attach = next(step.action for step in plan.phase("contract").steps if "attach/public.orders" in step.id)
        assert isinstance(attach, Transaction)
        assert [statement.split()[3] for statement in attach.statements] == ["DROP", "ADD"]
        # What the new version may break is open from the switch on; what the old one may break is closed in contract.
        assert "open/drop-constraint/public.orders.orders_total" in steps(plan, "switch")
        assert "contract/check/public.orders.orders_total" in contract
        assert [note for note in plan.notes if "ON CONFLICT ON CONSTRAINT has to use the old name" in note.text]


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name_with_a_remedy(shop: Target, tmp_path: Path, case: str) -> None:
    change, reason = REFUSED[case]
    with pytest.raises(UsageError) as found:
        oracle.plan(written(tmp_path, "refused", change + ";"), shop)
    assert re.search(reason, f"{found.value.what} {found.value.remedy}", re.DOTALL), found.value
    assert found.value.exit_code == 2


def test_a_published_table_keeps_the_key_that_identifies_its_rows(copy: Target, tmp_path: Path) -> None:
    ask(copy, "CREATE PUBLICATION everything FOR TABLE customer")
    with pytest.raises(UsageError, match="every UPDATE and DELETE of the application would fail"):
        oracle.plan(written(tmp_path, "unkeyed", "ALTER TABLE customer DROP CONSTRAINT customer_pkey;"), copy)


def test_a_broken_constraint_or_index_does_not_keep_from_dropping_it(copy: Target, tmp_path: Path) -> None:
    ask(
        copy,
        "ALTER TABLE orders DROP CONSTRAINT orders_parent;"
        "ALTER TABLE orders ADD CONSTRAINT orders_parent FOREIGN KEY (parent_id) REFERENCES orders (id) NOT VALID;"
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'orders_customer'::regclass",
    )
    with psycopg.connect(copy.conninfo) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE orders SET parent_id = 77 WHERE id = 3")
    with pytest.raises(UsageError, match="invalid: there would be no way back"):
        oracle.plan(written(tmp_path, "rebuild", "REINDEX INDEX orders_customer;"), copy)
    change = "ALTER TABLE orders DROP CONSTRAINT orders_parent; DROP INDEX orders_customer;"
    plan = oracle.plan(written(tmp_path, "repair", change), copy)
    for phase in plan.phases:
        assert not phase.gate_before or failing(copy, phase.gate_before) == {}
        carry_out(copy, plan, [phase.name])
        assert not phase.gate_after or failing(copy, phase.gate_after) == {}


QUICK = {"LOCKSTEP_LEASE_SECONDS": "2"}
VALIDATED = "SELECT convalidated FROM pg_constraint WHERE conname = 'positive'"


def prepare(target: Target, plan: Plan, last: str = "switch") -> None:
    """Register the plan and run its phases up to ``last``, as the flow would."""
    register(target, plan)
    with open_runner(target, plan.name) as runner:
        for phase in plan.phases:
            runner.run_phase(phase.name, ignore)
            runner.finish_phase(phase.name)
            if phase.name == last:
                return
