"""The plan document says what the plan says, and nothing that does not depend on it."""

from __future__ import annotations

import re

import pytest

from tasks.planning import report, wording
from tasks.planning.catalog import Catalog, Column, Constraint, Dependent, Index, Table
from tasks.planning.current import current_state
from tasks.planning.names import TableName
from tasks.planning.plan import (
    Analyze,
    Approval,
    Assignment,
    Backfill,
    BuildIndex,
    Check,
    DropIndex,
    Forecast,
    Gate,
    Irreversible,
    LockUse,
    MappedGroup,
    Note,
    Phase,
    Plan,
    Step,
    Transaction,
)
from tasks.planning.windows import Window

INTAKE = TableName("public", "intake")
USERS = TableName("public", "users")

HEADINGS = [
    "# Database Migration Architecture Plan",
    "## Current State Analysis",
    "## Migration Strategy Design",
    "## Risk Mitigation & Rollback Plan",
    "## Validation & Testing Strategy",
    "## Implementation Checklist",
]


def check(id_: str, *, corruption: bool = False) -> Check:
    return Check(
        id=id_, kind="parity", title=f"{id_} title", severity="CRITICAL", table=INTAKE, sql="SELECT 1",
        corruption=corruption,
    )  # fmt: skip


EXPAND = Phase(
    name="expand",
    purpose="Add the new shape.",
    application="Nothing to do in expand.",
    steps=(
        Step(
            id="expand/public.intake",
            title="Add columns",
            action=Transaction(statements=("ALTER TABLE public.intake ADD ml numeric(8,2)", "SELECT '```';")),
            locks=(LockUse(table=INTAKE, mode="ROW SHARE"), LockUse(table=INTAKE, mode="ACCESS EXCLUSIVE")),
            lock_timeout_ms=350,
            statement_timeout_ms=0,
            undo=(Transaction(statements=("ALTER TABLE public.intake DROP COLUMN ml",)),),
            forecast=Forecast(best=0.2, worst=75),
        ),
    ),
    gate_before=Gate(
        name="preflight", title="Before anything", checks=(check("orphans"),), user_suites=("suites/own.yaml",)
    ),
)
BACKFILL = Phase(
    name="backfill",
    purpose="Fill it.",
    application="Nothing to do in backfill.",
    heavy=True,
    steps=(
        Step(id="analyze", title="Statistics", action=Analyze(table=INTAKE)),
        Step(
            id="fill",
            title="Fill",
            action=Backfill(
                table=INTAKE,
                key=("id",),
                key_types=("bigint",),
                unfilled="lockstep_pending & 1 <> 0",
                assignments=(Assignment(column="ml", expression="(volume || '|x')::numeric"),),
            ),
            forecast=Forecast(best=3600, worst=9000),
        ),
        Step(
            id="index",
            title="Build",
            action=BuildIndex(table=INTAKE, index="i", statement="CREATE INDEX CONCURRENTLY i ON public.intake (ml)"),
            undo=(DropIndex(table=INTAKE, index="i"),),
        ),
    ),
    gate_after=Gate(name="equality", title="All equal", checks=(check("parity", corruption=True), check("unfilled"))),
)
CONTRACT = Phase(
    name="contract",
    purpose="Remove the old shape.",
    application="Only the new version may run.",
    approval=Approval(question="Is the old version gone?"),
    steps=(
        Step(
            id="drop",
            title="Drop",
            action=Transaction(statements=("ALTER TABLE public.intake DROP COLUMN volume",)),
            undo=Irreversible(reason="the old values are gone"),
        ),
    ),
)
PLAN = Plan(
    name="intake-v2",
    database="drink-water",
    strategy="expand-contract",
    why="Old and new application versions must both see public.intake.",
    change="ALTER TABLE intake ADD ml numeric(8,2)",
    change_hash="c0ffee",
    server_version=160004,
    phases=(EXPAND, BACKFILL, CONTRACT),
    groups=(
        MappedGroup(
            table=INTAKE,
            old=("volume",),
            new=("ml",),
            up=(Assignment(column="ml", expression="(volume)::numeric"),),
            down=(Assignment(column="volume", expression="round(ml)"),),
        ),
    ),
    tables=(INTAKE,),
    personal=("public.users.email",),
    schema_before="0123456789abcdef" * 4,
    soak_seconds=7 * 86_400,
    window=Window(days=("sat", "sun"), start="02:00", end="05:00", timezone="Europe/Berlin"),
    notes=(Note(severity="INFO", text="a small thing"), Note(severity="CRITICAL", text="0.30 → 0 | breaks")),
    reverse="name: intake-v2-back",
)
EMPTY = PLAN.model_copy(
    update={"phases": (), "groups": (), "notes": (), "personal": (), "reverse": "", "why": "It is in place."}
)
CATALOG = Catalog(
    server_version=160004,
    database="drink-water",
    tables=(
        Table(
            name=INTAKE, oid=1, kind="r", persistence="p", owner="app", rows=1_234_567, bytes=3 * 2**30,
            columns=(
                Column(name="id", attnum=1, type="bigint", not_null=True),
                Column(name="user_id", attnum=2, type="bigint", not_null=True),
                Column(name="volume", attnum=3, type="integer", not_null=True),
            ),
            constraints=(
                Constraint(
                    name="intake_user_fk", oid=2, kind="foreign_key", columns=("user_id",), references=USERS,
                    definition="FOREIGN KEY (user_id) REFERENCES users(id)", validated=False,
                ),
            ),
            indexes=(
                Index(
                    name="broken", oid=3, definition="CREATE INDEX broken ON public.intake USING btree (volume)",
                    columns=("volume",), valid=False,
                ),
                # Neither finds the rows of a user: one leaves some out, the other only keeps who it was.
                Index(
                    name="large", oid=6, columns=("user_id", "volume"),
                    definition="CREATE INDEX large ON public.intake USING btree (user_id) WHERE (volume > 500)",
                ),
                Index(
                    name="hashed", oid=7, columns=("user_id",),
                    definition="CREATE INDEX hashed ON public.intake USING btree (abs(user_id))",
                ),
            ),
            dependents=(Dependent(kind="view", name="public.daily", columns=("volume",)),),
        ),
        Table(
            name=USERS, oid=4, kind="r", persistence="p", owner="app", columns=(),
            constraints=(
                Constraint(
                    name="last_fk", oid=5, kind="foreign_key", columns=("last_intake",), references=INTAKE,
                    definition="FOREIGN KEY (last_intake) REFERENCES intake(id)",
                ),
            ),
        ),
    ),
)  # fmt: skip


def section(document: str, heading: str) -> str:
    return re.split(r"\n(?=# |## )", document)[HEADINGS.index(heading)]


def headings(plan: Plan) -> list[str]:
    outside = re.sub(r"(`{3,})sql\n.*?\n\1", "", report.render(plan), flags=re.DOTALL)
    return [line for line in outside.splitlines() if re.match("##? ", line)]


def test_exactly_the_headings_and_none_over_nothing() -> None:
    assert headings(PLAN) == HEADINGS
    assert headings(EMPTY) == HEADINGS[:3]
    assert headings(EMPTY.model_copy(update={"tables": (), "schema_before": ""})) == [HEADINGS[0], HEADINGS[2]]
    without_gates = tuple(phase.model_copy(update={"gate_before": None, "gate_after": None}) for phase in PLAN.phases)
    assert headings(PLAN.model_copy(update={"phases": without_gates})) == [*HEADINGS[:4], HEADINGS[5]]


def test_every_step_with_its_locks_timeouts_forecast_and_statements() -> None:
    design = section(report.render(PLAN), "## Migration Strategy Design")
    row = next(line for line in design.splitlines() if line.startswith("| `expand/public.intake`"))
    assert row == (
        "| `expand/public.intake` | Add columns | ACCESS EXCLUSIVE on public.intake | 350 ms | none | 0.2 s to 75 s |"
    )
    for phase in PLAN.phases:
        assert phase.purpose in design
        assert phase.application in design
        for step in phase.steps:
            assert f"`{step.id}`" in design
            assert report.operation(step.action) in design
    assert "UPDATE public.intake\n   SET ml = (volume || '|x')::numeric\n WHERE lockstep_pending & 1 <> 0;" in design
    assert "Is the old version gone?" in design
    assert "1 h to 2.5 h" in design
    assert "| public.intake | ml | volume | `round(ml)` |" in design
    assert PLAN.change in design


def test_a_function_s_body_stands_at_the_end() -> None:
    body = 'CREATE OR REPLACE FUNCTION "lockstep"."sync (1"() RETURNS trigger AS \'\nBEGIN\n  RETURN NEW;\nEND\''
    step = EXPAND.steps[0].model_copy(update={"action": Transaction(statements=("SELECT 1", body))})
    document = report.render(PLAN.model_copy(update={"phases": (EXPAND.model_copy(update={"steps": (step,)}),)}))
    assert "RETURN NEW" not in section(document, "## Migration Strategy Design")
    assert '-- CREATE OR REPLACE FUNCTION "lockstep"."sync (1"(): see the appendix' in document
    _, appendix = document.split("### Appendix: functions")
    assert f"`{step.id}`" in appendix
    assert f"{body};" in appendix
    assert "Appendix" not in report.render(PLAN)


@pytest.mark.parametrize(
    ("limit", "text"), [(0, "none"), (50, "50 ms"), (1500, "1,500 ms"), (5000, "5 s"), (21_600_000, "21,600 s")]
)
def test_timeouts_are_exact(limit: int, text: str) -> None:
    assert wording.timeout(limit) == text


def test_a_statement_cannot_close_its_code_block() -> None:
    assert report.block("SELECT '```'") == "````sql\nSELECT '```'\n````"
    assert report.code("a`b|c\nd") == "``a`b\\|c d``"


def test_rollback_of_every_step_latest_first() -> None:
    risks = section(report.render(PLAN), "## Risk Mitigation & Rollback Plan")
    assert "| expand | `expand/public.intake` | `ALTER TABLE public.intake DROP COLUMN ml` |" in risks
    assert "| contract | `drop` | **irreversible**: the old values are gone |" in risks
    assert "| backfill | `analyze` | nothing to undo |" in risks
    assert "DROP INDEX CONCURRENTLY IF EXISTS public.i" in risks
    assert risks.index("| backfill | `index`") < risks.index("| backfill | `fill`") < risks.index("| backfill | `ana")
    assert risks.index("| CRITICAL | 0.30 → 0 \\| breaks |") < risks.index("| INFO | a small thing |")
    assert "name: intake-v2-back" in risks


def test_gates_with_their_checks() -> None:
    validation = section(report.render(PLAN), "## Validation & Testing Strategy")
    assert "### Before anything (before expand)" in validation
    assert "### All equal (after backfill)" in validation
    assert "| parity title | CRITICAL | stop and roll back: the data is wrong |" in validation
    assert "| unfilled title | CRITICAL | stop |" in validation
    assert "`suites/own.yaml`" in validation


def test_after_the_switch_nothing_goes_back_by_itself() -> None:
    wrong, late = check("parity", corruption=True), check("late", corruption=True)
    switch = Phase(name="switch", purpose="", application="", steps=(), gate_after=Gate(name="g", title="g", checks=()))
    contract = CONTRACT.model_copy(update={"gate_before": Gate(name="contract", title="Still equal", checks=(late,))})
    plan = PLAN.model_copy(update={"phases": (BACKFILL, switch, contract)})
    assert report.when_it_fails(wrong, switch, plan) == "stop and roll back: the data is wrong"
    validation = section(report.render(plan), "## Validation & Testing Strategy")
    assert "| parity title | CRITICAL | stop and roll back: the data is wrong |" in validation
    assert "| late title | CRITICAL | stop: the data is wrong |" in validation
    assert "before the switch" not in validation


def test_the_checklist_follows_the_phases() -> None:
    checklist = section(report.render(PLAN), "## Implementation Checklist")
    boxes = [line.removeprefix("- [ ] ") for line in checklist.splitlines() if line.startswith("- [ ]")]
    assert boxes == [
        "gate preflight (1 check, 1 own suite)",
        "expand (1 step)",
        "the application: Nothing to do in expand.",
        "backfill (3 steps)",
        "gate equality (2 checks)",
        "the application: Nothing to do in backfill.",
        "approve contract: Is the old version gone?",
        "let both shapes run for 7 days after the switch",
        "contract (1 step)",
        "the application: Only the new version may run.",
    ]


def test_the_current_state_comes_from_the_catalog() -> None:
    known = PLAN.model_copy(update={"current": current_state(CATALOG, PLAN.tables)})
    state = section(report.render(known), "## Current State Analysis")
    assert "About 1,234,567 rows, 3 GiB." in state
    assert "| columns | id bigint, user_id bigint, volume integer |" in state
    assert "| depends on it | view public.daily |" in state
    assert "| references it | public.users.last_intake |" in state
    for weakness in (
        "no primary key",
        "constraint intake_user_fk was never validated",
        "no index leads with the foreign key intake_user_fk (user_id)",
        "index broken is invalid",
    ):
        assert f"| risk factor | {weakness} |" in state
    without = section(report.render(PLAN), "## Current State Analysis")
    assert "1,234,567" not in without
    for part in (state, without):
        assert "`public.users.email`" in part
        assert "`0123456789abcdef`" in part


def test_an_empty_plan_says_so() -> None:
    document = report.render(EMPTY)
    assert "Nothing to do: It is in place." in document
    assert document.count("It is in place.") == 1
    assert "|" not in document
    assert "Phase" not in document


def test_json_comes_back_equal() -> None:
    assert Plan.model_validate_json(report.to_json(PLAN)) == PLAN


def test_phases_table() -> None:
    expand, backfill, contract = report.phases_table(PLAN)
    assert (expand.phase, expand.steps, expand.locks) == ("expand", "1", "ACCESS EXCLUSIVE on public.intake")
    assert (expand.forecast, expand.gates) == ("0.2 s to 75 s", "preflight (1 check, 1 own suite)")
    assert expand.waits_for == "nothing"
    assert (backfill.gates, backfill.waits_for) == (
        "equality (2 checks)",
        "maintenance window sat, sun 02:00–05:00 Europe/Berlin",
    )
    assert (contract.locks, contract.waits_for) == ("none", "approval, soak of 7 days")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "under 0.1 s"), (0.2, "0.2 s"), (9.94, "9.9 s"), (59, "59 s"), (60, "1 min"), (119, "119 s"),
        (150, "2.5 min"), (3600, "1 h"), (9000, "2.5 h"), (86_400, "1 days"), (604_800, "7 days"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text.replace("1 days", "1 day")
