"""The text of checks and gates: complete, in one piece, and readable by the parser of the server."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest
from psycopg import sql

from tasks.planning import parser
from tasks.planning.catalog import Column, Constraint, Index, Table
from tasks.planning.checks.data import due
from tasks.planning.checks.index_terms import key_list
from tasks.planning.checks.parity import expanded
from tasks.planning.checks.suites import (
    BusinessRule,
    Coming,
    Promised,
    Scope,
    backfill_gate,
    contract_gate,
    equality_gate,
    final_gate,
    preflight_gate,
    projection,
)
from tasks.planning.checks.uniqueness import UniqueKey, unique_keys
from tasks.planning.names import PENDING_COLUMN, TableName
from tasks.planning.plan import Assignment, Check, CheckKind, Gate, MappedGroup

T, U = TableName("public", "t"), TableName("public", "Odd {name} 100%:x")
# What the lead compares by hash in Python; there is no statement for it.
BY_HASH = {"schema"}


def column(name: str, kind: str = "integer", *, not_null: bool = True) -> Column:
    return Column(name=name, attnum=1, type=kind, not_null=not_null)


def constraint(name: str, kind: str, columns: tuple[str, ...], definition: str = "", **more: object) -> Constraint:
    return Constraint.model_validate(
        {"name": name, "oid": 1, "kind": kind, "columns": columns, "definition": definition, **more}
    )


ODD = Table(
    name=U, oid=1, kind="r", persistence="p", owner="o", columns=(column("id"), column("a:b%c")),
    constraints=(constraint("u_pkey", "primary_key", ("id",)),),
)  # fmt: skip
BEFORE = Table(
    name=T, oid=2, kind="r", persistence="p", owner="o", rows=640_000,
    columns=(column("id"), column("old"), column("odd_id", not_null=False)),
    constraints=(
        constraint("t_pkey", "primary_key", ("id",)),
        constraint("t_odd", "foreign_key", ("odd_id",), "FOREIGN KEY …", references=U, referenced_columns=("id",)),
        constraint("t_old", "unique", ("old",)),
    ),
    indexes=(
        Index(name="i", oid=3, definition="CREATE UNIQUE INDEX i ON public.t USING btree (abs(old)) WHERE (old > 0)",
              columns=("old",), unique=True),
        Index(name="t_pkey", oid=4, definition="…", columns=("id",), unique=True, constraint="t_pkey"),
    ),
)  # fmt: skip
GROUP = MappedGroup(
    table=T, old=("old",), new=("new",), bits=3,
    up=(Assignment(column="new", expression="old * 2"),), down=(Assignment(column="old", expression="new / 2"),),
)  # fmt: skip
EXPANDED = expanded(BEFORE, [column("new", "numeric(8,2)", not_null=False)])
RULE = BusinessRule("positive", T, "old > 0", frozenset({"old"}))
SCOPE = Scope(changed=(EXPANDED, ODD), rules=(RULE,), sync_triggers={T: "sync"})
PROMISED = Promised({T: ["t_pkey"]}, {T: ["t_new_check"]})
COMING = Coming(
    table=BEFORE,
    projected=projection(GROUP.up, EXPANDED),
    unique=(UniqueKey("t_old", ("new",)),),
    not_null=("new",),
    conditions=(("t_new_check", "new > 0"),),
)
GATES = {
    "preflight": preflight_gate(Scope(changed=(BEFORE, ODD), rules=(RULE,)), [COMING]),
    "backfill": backfill_gate("m", SCOPE, [GROUP], [due(EXPANDED, "statement 2", "t", "t.old > 0")]),
    "equality": equality_gate("m", SCOPE, [GROUP], PROMISED),
    "contract": contract_gate("m", SCOPE, [GROUP], PROMISED),
    "final": final_gate(SCOPE, PROMISED),
}
CHECKS = [(gate, check) for gate in GATES.values() for check in gate.checks]


@pytest.mark.parametrize(
    "check", [check for _, check in CHECKS], ids=[f"{gate.name}-{check.id}" for gate, check in CHECKS]
)
def test_a_check_is_one_select_of_four_named_columns_without_parameters(check: Check) -> None:
    tree = parser.tree_of(check.sql)
    assert len(tree.stmts) == 1
    select = tree.stmts[0].stmt.select_stmt
    listed = [target.res_target for target in select.target_list]
    names = [target.name or target.val.column_ref.fields[-1].string.sval for target in listed]
    assert names == ["failing", "evaluated", "sample", "observed"]
    assert "param_ref" not in str(tree), "the text is executed as it stands"


@pytest.mark.parametrize("gate", GATES.values(), ids=list(GATES))
def test_the_ids_of_a_gate_are_its_own(gate: Gate) -> None:
    assert len({check.id for check in gate.checks}) == len(gate.checks) > 0
    assert Gate.model_validate_json(gate.model_dump_json()) == gate


def test_together_the_gates_ask_every_kind_of_question() -> None:
    assert {check.kind for _, check in CHECKS} | BY_HASH == set(get_args(CheckKind))


def test_only_what_was_sound_before_can_be_corrupted() -> None:
    assert not any(check.corruption for check in GATES["preflight"].checks)
    corrupting = {check.kind for check in GATES["equality"].checks if check.corruption}
    assert corrupting == {"parity", "sync_failures", "orphans", "duplicates", "rule"}


def test_incoming_references_are_followed_and_inherited_ones_left_to_their_parent() -> None:
    only_odd = preflight_gate(Scope(changed=(ODD,), others=(BEFORE,)))
    assert [check.id for check in only_odd.checks if check.kind == "orphans"] == ["orphans:public.t:t_odd"]
    inherited = BEFORE.model_copy(
        update={"constraints": tuple(item.model_copy(update={"inherited": True}) for item in BEFORE.constraints)}
    )
    assert not [check for check in preflight_gate(Scope((inherited, ODD))).checks if check.kind == "orphans"]


def test_an_expanded_table_has_both_shapes_and_the_marker_once() -> None:
    again = expanded(EXPANDED, [column("new")])
    assert [item.name for item in again.columns] == ["id", "old", "odd_id", "new", PENDING_COLUMN]


def test_a_group_that_only_fills_old_columns_has_no_parity() -> None:
    one_sided = MappedGroup(
        table=T, old=("old",), new=(), up=(), down=(Assignment(column="old", expression="0"),), bits=3
    )
    kinds = {check.kind for check in equality_gate("m", SCOPE, [one_sided], PROMISED).checks}
    assert "unfilled" in kinds
    assert not {"parity", "aggregates"} & kinds


def test_what_a_unique_index_demands_is_read_from_its_definition() -> None:
    assert [(key.name, key.terms, key.predicate) for key in unique_keys(BEFORE)] == [
        ("t_pkey", ('"id"',), None),
        ("t_old", ('"old"',), None),
        ("i", ("abs(old)",), "(old > 0)"),
    ]


@pytest.mark.parametrize(
    ("listed", "terms"),
    [
        ("a", ("a",)),
        ('"A ""q"", (x)" DESC NULLS LAST, b', ('"A ""q"", (x)"', "b")),
        ("lower(email) COLLATE \"C\" text_pattern_ops, ((a || ','::text))", ("lower(email)", "((a || ','::text))")),
        ('"S"."F"(a, \')\') DESC', ('"S"."F"(a, \')\')',)),
        ("((b ->> '('::text)) text_ops (x='1')", ("((b ->> '('::text))",)),
        ("COALESCE(a, 'it''s (')", ("COALESCE(a, 'it''s (')",)),
    ],
)
def test_index_terms(listed: str, terms: tuple[str, ...]) -> None:
    definition = f"CREATE UNIQUE INDEX i ON public.t USING btree ({listed}) INCLUDE (c) WHERE (a > 0)"
    assert key_list(definition) == (terms, " INCLUDE (c) WHERE (a > 0)")


def test_names_reach_the_statement_quoted() -> None:
    odd = next(check for check in GATES["equality"].checks if check.id.startswith("duplicates:") and "Odd" in check.id)
    assert sql.Identifier(*U).as_string(None) in odd.sql


def test_importing_the_gate_imports_neither_great_expectations_nor_pandas() -> None:
    code = "import sys, expectations.gate; print([n for n in sys.modules if n in ('great_expectations', 'pandas')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
