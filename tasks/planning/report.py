"""The plan document: what a plan says, for people. Whatever it says comes from the plan or the catalog."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple, assert_never, get_args

from jinja2 import Environment, PackageLoader, StrictUndefined

from tasks.planning.alternatives import alternatives
from tasks.planning.monitoring import LIMITS, QUESTIONS
from tasks.planning.names import TableName
from tasks.planning.personal import copies
from tasks.planning.plan import (
    LOCK_ORDER,
    Action,
    Analyze,
    AwaitSnapshots,
    Backfill,
    BuildIndex,
    Check,
    DeleteRows,
    DropIndex,
    Forecast,
    Gate,
    Irreversible,
    LockMode,
    LockUse,
    Phase,
    Plan,
    Reindex,
    ReinsertRows,
    RestoreRows,
    RowChange,
    Severity,
    Step,
    Transaction,
    UpdateRows,
)
from tasks.planning.recovery import announcements, going, going_back, recoveries, stalls, tiers
from tasks.planning.rehearsal import limits_of, phase_rows, table_rows, told
from tasks.planning.risks import worst
from tasks.planning.timings import SLOWER_BY, SLOWER_MS
from tasks.planning.timings import rows as rows_of_timings
from tasks.planning.today import Survey, foretold, observations
from tasks.planning.wording import counted, duration, forecast, size, timeout

LONGEST_UNDO = 120
"""Characters of an undo statement that the rollback table shows; a function's whole body is no help there."""

_SEVERITIES: tuple[Severity, ...] = get_args(Severity)
_FUNCTION = re.compile(r'CREATE (?:OR REPLACE )?FUNCTION (?:"(?:[^"]|"")*"|[^\s("])+\(')


class PhaseRow(NamedTuple):
    """One phase in a terminal's width; all fields are text to show."""

    phase: str
    steps: str
    locks: str
    forecast: str
    gates: str
    waits_for: str


def render(plan: Plan, survey: Survey | None = None) -> str:
    """Return the plan document as Markdown; with a survey also what the database is like today."""
    notes = sorted(plan.notes, key=lambda note: _SEVERITIES.index(note.severity))
    return (
        _environment()
        .get_template("plan.md.j2")
        .render(
            plan=plan,
            tables=plan.current,
            recoveries=recoveries(plan),
            tiers=tiers(plan),
            going=going(plan),
            going_back=going_back(plan),
            announcements=announcements(plan),
            watched=QUESTIONS,
            watch_limits=LIMITS,
            level=worst(plan.risks),
            stalls=stalls(plan),
            seen=observations(survey.facts, plan.tables) if survey else (),
            slower_by=SLOWER_BY,
            slower_ms=SLOWER_MS,
            timed=rows_of_timings((survey.timings,)) if survey and survey.timings else (),
            copies=copies(plan),
            alternatives=alternatives(plan, survey) if survey and plan.phases else (),
            foretold=foretold(survey.expected) if survey else (),
            rehearsal=survey.rehearsal if survey else None,
            # What the live facts judge is told once, with their numbers; the catalog's word is for where they saw less.
            by_catalog=survey is None or not survey.facts.sees_indexes,
            notes=notes,
            total=total(plan.phases),
            rows=phases_table(plan),
            functions=functions(plan),
        )
    )


def to_json(plan: Plan) -> str:
    """Return the plan as one JSON document, which `Plan.model_validate_json` reads back to an equal plan."""
    return plan.model_dump_json(indent=2)


def phases_table(plan: Plan) -> tuple[PhaseRow, ...]:
    """Return one row a phase, in order."""
    return tuple(
        PhaseRow(
            phase=phase.name,
            steps=str(len(phase.steps)),
            locks=locks([lock for step in phase.steps for lock in step.locks]),
            forecast=forecast(total([phase])),
            gates=", ".join(f"{gate.name} ({extent(gate)})" for gate in gates(phase)) or "none",
            waits_for=", ".join(_waits_for(phase, plan)) or "nothing",
        )
        for phase in plan.phases
    )


def gates(phase: Phase) -> tuple[Gate, ...]:
    """Return the gates of a phase, in the order in which they run."""
    return tuple(gate for gate in (phase.gate_before, phase.gate_after) if gate is not None)


def functions(plan: Plan) -> tuple[tuple[str, str], ...]:
    """Return the statements that create functions, each with the id of its step: `operation` only names them."""
    return tuple(
        (step.id, _terminated(statement))
        for phase in plan.phases
        for step in phase.steps
        if isinstance(step.action, Transaction)
        for statement in step.action.statements
        if _FUNCTION.match(statement.lstrip())
    )


def when_it_fails(check: Check, phase: Phase, plan: Plan) -> str:
    """Return what follows when a check of a gate of this phase fails; nothing goes back by itself after the switch."""
    match check.severity:
        case "INFO":
            return "show"
        case "WARNING":
            return "ask for approval"
        case "CRITICAL":
            if not check.corruption:
                return "stop"
            names = [found.name for found in plan.phases]
            switched = "switch" in names[: names.index(phase.name)]
            return "stop: the data is wrong" if switched else "stop and roll back: the data is wrong"
        case unreachable:
            assert_never(unreachable)


def total(phases: Sequence[Phase]) -> Forecast:
    """Return the forecast of all steps together, waiting times not counted."""
    steps = [step.forecast for phase in phases for step in phase.steps]
    return Forecast(best=sum(step.best for step in steps), worst=sum(step.worst for step in steps))


def _waits_for(phase: Phase, plan: Plan) -> Iterable[str]:
    if phase.approval is not None:
        yield "approval"
    if phase.name == "contract" and plan.soak_seconds:
        yield f"soak of {duration(plan.soak_seconds)}"
    if phase.heavy and plan.window is not None:
        yield f"maintenance window {plan.window}"


# ------------------------------------------------------------------------------------------------ wording


def extent(gate: Gate) -> str:
    """Return how much a gate checks: ``18 checks``, ``18 checks, 1 own suite``."""
    own = (counted(len(gate.user_suites), "own suite"),) if gate.user_suites else ()
    return ", ".join((counted(len(gate.checks), "check"), *own))


def locks(used: Iterable[LockUse]) -> str:
    """Return the strongest lock on each table."""
    strongest: dict[TableName, LockMode] = {}
    for lock in used:
        known = strongest.get(lock.table)
        if known is None or LOCK_ORDER.index(lock.mode) > LOCK_ORDER.index(known):
            strongest[lock.table] = lock.mode
    return ", ".join(f"{mode} on {table}" for table, mode in strongest.items()) or "none"


def operation(action: Action) -> str:
    """Return an action as SQL, or as a comment that says what the executor does; a function is only named."""
    match action:
        case Transaction():
            return "\n".join(["BEGIN;", *(_in_brief(statement) for statement in action.statements), "COMMIT;"])
        case BuildIndex():
            return _terminated(action.statement)
        case DropIndex():
            return f"DROP INDEX CONCURRENTLY IF EXISTS {TableName(action.table.schema, action.index)};"
        case Reindex():
            return f"REINDEX INDEX CONCURRENTLY {TableName(action.table.schema, action.index)};"
        case Analyze():
            return f"ANALYZE {action.table};"
        case AwaitSnapshots():
            return "-- until no row of pg_stat_activity has a backend_xmin from before the last phase's end"
        case Backfill():
            assigned = ",\n".join(f"       {a.column} = {a.expression}" for a in action.assignments)
            return (
                f"-- in batches, in the order of ({', '.join(action.key)}), until no row is left:\n"
                f"UPDATE {action.table}\n   SET {assigned.strip()}\n WHERE {action.unfilled};"
            )
        case UpdateRows():
            assigned = ",\n".join(f"       {a.column} = {a.expression}" for a in action.assignments)
            named = f" AS {action.alias}" if action.alias != action.table.name else ""
            return (
                f"-- in batches, in the order of ({', '.join(action.key)}), each row once{_keeping(action)}:\n"
                f"UPDATE {action.table}{named}\n   SET {assigned.strip()}\n WHERE {action.due};"
            )
        case DeleteRows():
            named = f" AS {action.alias}" if action.alias != action.table.name else ""
            return (
                f"-- in batches, in the order of ({', '.join(action.key)}){_keeping(action)}:\n"
                f"DELETE FROM {action.table}{named}\n WHERE {action.due};"
            )
        case RestoreRows():
            return f"give the rows in {action.kept} that still hold what was written their old values, in batches"
        case ReinsertRows():
            return f"insert the rows in {action.kept} again, in batches"
        case unreachable:
            assert_never(unreachable)


def _keeping(action: RowChange) -> str:
    return f", old values into {action.kept}" if action.kept is not None else ""


def undo(step: Step) -> str:
    """Return in one line of Markdown how a step is undone."""
    if isinstance(step.undo, Irreversible):
        return f"**irreversible**: {step.undo.reason}"
    statements = [line for action in step.undo for line in _statements(action)]
    if not statements:
        return "nothing to undo"
    return "; ".join(code(textwrap.shorten(statement, LONGEST_UNDO, placeholder=" …")) for statement in statements)


def _statements(action: Action) -> tuple[str, ...]:
    return action.statements if isinstance(action, Transaction) else (operation(action),)


def _in_brief(statement: str) -> str:
    found = _FUNCTION.match(statement.lstrip())
    return f"-- {found[0]}): see the appendix" if found else _terminated(statement)


def _terminated(statement: str) -> str:
    text = statement.strip()
    return text if text.endswith(";") else f"{text};"


# ------------------------------------------------------------------------------------------------ Markdown


def cell(text: object) -> str:
    """Return text for a table cell: on one line, its bars escaped."""
    return " ".join(str(text).split()).replace("|", "\\|")


def code(text: object) -> str:
    """Return text as inline code, also when it contains backticks."""
    line = cell(text)
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def block(text: str) -> str:
    """Return text as an SQL code block, fenced longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sql\n{text.strip()}\n{fence}"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tasks.planning"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown, not HTML; cells and code escape themselves
    )
    environment.filters |= {
        function.__name__: function
        for function in (
            cell,
            code,
            counted,
            block,
            duration,
            forecast,
            size,
            timeout,
            locks,
            operation,
            undo,
            gates,
            extent,
            when_it_fails,
            told,
            table_rows,
            phase_rows,
            limits_of,
        )
    }
    return environment
