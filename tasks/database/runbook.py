"""The runbook for carrying a plan out by hand, with psql alone: scripts that check, act and verify.

One script a phase and one for each way back. What is done is kept in ``lockstep.runbook`` in the same transaction, so a
script that stopped at a lock, a check or a lost connection is run again and goes on. Batches are the executor's own
(`compose`, `compose_change`, `compose_return`), over PL/pgSQL's variables instead of parameters. What only a program
can do is left out: there is no throttle, no lock is tried again, and a row that cannot be converted stops the script.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import assert_never

from psycopg import sql

from tasks.database.backfill import FIRST_ROWS, LOCK_TIMEOUT_MS
from tasks.database.backfill_sql import TURNS, BatchStatements, compose
from tasks.database.queries import queries
from tasks.database.row_changes_sql import compose_change, compose_return
from tasks.planning.names import TableName
from tasks.planning.plan import (
    Action,
    Analyze,
    AwaitSnapshots,
    Backfill,
    BuildIndex,
    Check,
    DeleteRows,
    DropIndex,
    Gate,
    Irreversible,
    Phase,
    Plan,
    Reindex,
    ReinsertRows,
    RestoreRows,
    Step,
    Transaction,
    UpdateRows,
)
from tasks.planning.wording import duration

_LEDGER = (files("tasks.database") / "sql" / "ledger.sql").read_text()
_SNAPSHOTS = queries("snapshots")
_VARIABLE = "lockstep_v_"
_PARAMETER = re.compile(r"%\((\w+)\)s")
LIMITS = (("lock_timeout", "5s"), ("statement_timeout", "1h"))
"""Of everything that has no limits of its own: the gates, and the scripts' notes."""
SWEEPS = 20
"""How often rows that were locked are looked for once more, a fifth of a second apart."""


def scripts(plan: Plan) -> Mapping[str, str]:
    """Return the scripts by file name, in the order in which they are run; empty for a plan with nothing to do."""
    if plan.is_empty:
        return {}
    found = {
        "00-prepare.sql": _script(
            plan, "prepare the tables that the scripts keep their notes in", [_prepare(), _alone(plan)]
        )
    }
    for number, phase in enumerate(plan.phases, start=1):
        found[f"{number:02}-{phase.name}.sql"] = _forward(plan, phase)
    for number, phase in enumerate(reversed(plan.phases), start=len(plan.phases) + 1):
        found[f"{number:02}-rollback-{phase.name}.sql"] = _back(plan, phase)
    return found


# ------------------------------------------------------------------------------------------------ scripts


def _script(plan: Plan, title: str, parts: Sequence[str]) -> str:
    settings = "".join(
        f"SELECT set_config({_literal(name)}, {_literal(value)}, false) \\g /dev/null\n"
        for name, value in plan.settings
    )
    head = (
        f"-- {plan.name}: {title}\n"
        "-- Made by lockstep plan. Run it with:  psql -X -f THIS_FILE  (and the connection).\n"
        "-- It stops at the first error; run it again then: what is done is not done twice.\n"
        "\\set ON_ERROR_STOP on\n"
        "SET client_min_messages = warning;\n"
        f"{_limits()}\n"
        # A pooler between two statements would give the limits, and the lock on the runbook, to somebody else.
        f"{_raise_if(_unlimited(), 'the session loses its limits: connect to the server itself, not to a pooler')}\n"
    )
    return "\n".join([head + settings, *parts, f"\\echo {_echo(f'{plan.name}: {title}: done')}", ""])


def _limits() -> str:
    return "\n".join(f"SET {name} = '{value}';" for name, value in LIMITS)


def _unlimited() -> str:
    return " OR ".join(f"current_setting('{name}') <> '{value}'" for name, value in LIMITS)


def _prepare() -> str:
    return _LEDGER.strip()


def _forward(plan: Plan, phase: Phase) -> str:
    at = plan.phases.index(phase)
    earlier = plan.phases[at - 1] if at else None
    later = plan.phases[at + 1] if at + 1 < len(plan.phases) else None
    parts = [f"-- {phase.purpose}\n-- The application: {phase.application}", _alone(plan)]
    if earlier is not None:
        parts.append(_raise_unless_done(plan, earlier))
    if phase.approval is not None:
        parts.append(_approved(phase.approval.question))
    if phase.name == "contract" and plan.soak_seconds and earlier is not None:
        parts.append(_soaked(plan, earlier))
    if phase.gate_before is not None:
        # A gate looks at what is there before or after the phase; in the middle or further on it is something else.
        parts.append(_unless(_any_begun(plan, phase), _gate(phase.gate_before)))
    parts.append(_raise_if(_any_begun(plan, phase, "undone > 0"), f"{phase.name} is half taken back: end that first"))
    parts += [_step(plan, step, number, len(phase.steps)) for number, step in enumerate(phase.steps, start=1)]
    if phase.gate_after is not None:
        parts.append(_unless(_any_begun(plan, later) if later else "false", _gate(phase.gate_after)))
    return _script(plan, f"phase {phase.name}", parts)


def _back(plan: Plan, phase: Phase) -> str:
    later = plan.phases[plan.phases.index(phase) + 1 :]
    parts = [f"-- Takes back: {phase.purpose}", _alone(plan)]
    parts += [_raise_if(_any_begun(plan, other), f"take {other.name} back first") for other in later]
    # All of them before the first step is touched: half a way back would be neither here nor there.
    parts += [
        _raise_if(_begun(plan, step), f"{step.title}: this cannot be taken back. {step.undo.reason}")
        for step in phase.steps
        if isinstance(step.undo, Irreversible)
    ]
    parts += [_undo(plan, step, step.undo) for step in reversed(phase.steps) if not isinstance(step.undo, Irreversible)]
    parts.append(_raise_if(_any_begun(plan, phase), f"{phase.name} is not taken back wholly: run this script again"))
    return _script(plan, f"take {phase.name} back", parts)


def _alone(plan: Plan) -> str:
    """Two people with the same runbook would do the same step at the same time, and so would Lockstep."""
    name = _literal(plan.name)
    key = f"hashtextextended({_literal(f'lockstep runbook {plan.name}')}, 0)"
    busy = f"RAISE EXCEPTION USING MESSAGE = {_literal(f'somebody else is carrying {plan.name} out just now')};"
    only_one = f"BEGIN PERFORM pg_advisory_lock({key}); EXCEPTION WHEN lock_not_available THEN {busy} END"
    return "\n".join(
        [
            # For as long as lock_timeout says: the session of the script before may still be ending.
            f"DO {_literal(only_one)};",
            _raise_if(
                "EXISTS (SELECT FROM lockstep.step AS s JOIN lockstep.migration AS m ON m.name = s.migration"
                f" WHERE m.name = {name} AND m.state NOT IN ('rolled_back', 'cleaned')"
                " AND s.state IN ('running', 'done'))",
                f"{plan.name} is being carried out by Lockstep: go on with lockstep run, or roll back with it",
            ),
        ]
    )


def _approved(question: str) -> str:
    return (
        f"\\if :{{?approved}}\n\\else\n\\echo {_echo(question)}\n\\echo 'If so, run again with:  -v approved=yes'\n"
        f"{_raise_if('true', 'not approved')}\n\\endif"
    )


def _soaked(plan: Plan, switch: Phase) -> str:
    since = f"(SELECT max(at) {_noted(plan, switch.steps)})"
    early = f"{since} > clock_timestamp() - interval '{plan.soak_seconds} seconds'"
    message = (
        f"both shapes have not run for {duration(plan.soak_seconds)} yet; to go on all the same: -v waive_soak=yes"
    )
    return f"\\if :{{?waive_soak}}\n\\else\n{_raise_if(early, message)}\n\\endif"


def _gate(gate: Gate) -> str:
    lines = [f"\\echo {_echo(f'Gate {gate.name}: {gate.title}')}\n{_limits()}"]
    lines += [_check(check) for check in gate.checks]
    lines += [
        f"\\echo {_echo(f'Not looked at: your own suite {suite}. Run it with Great Expectations.')}"
        for suite in gate.user_suites
    ]
    return "\n".join(lines)


def _check(check: Check) -> str:
    level = {"CRITICAL": "EXCEPTION", "WARNING": "WARNING", "INFO": "NOTICE"}[check.severity]
    body = (
        "DECLARE failing bigint; sample jsonb; BEGIN"
        f" SELECT found.failing, found.sample INTO failing, sample FROM ({check.sql})"
        " AS found (failing, evaluated, sample, observed);"
        f" IF failing IS DISTINCT FROM 0 THEN RAISE {level} USING MESSAGE ="
        f" format('%s: %s fail, for example %s', {_literal(check.title)}, failing, sample); END IF; END"
    )
    return f"DO {_literal(body)};"


# ------------------------------------------------------------------------------------------------ steps


def _step(plan: Plan, step: Step, number: int, of: int) -> str:
    done = _record(plan, step, "done")
    head = f"\\echo {_echo(f'[{number}/{of}] {step.title}')}\n" + _ask(f"NOT ({_is_done(plan, step)})")
    match step.action:
        case Transaction() as action:
            body = _transaction(step, action, done)
        case action:
            body = "\n".join([f"{_record(plan, step, 'begun')}", _act(plan, step, action), done])
    return f"{head}\\if :lockstep_due\n{body}\n\\endif"


def _undo(plan: Plan, step: Step, actions: Sequence[Action]) -> str:
    """Each action is taken note of by itself: one that scans may fail, and what came before it is not done twice."""
    parts = [f"\\echo {_echo(f'Taking back: {step.title}')}"]
    for number, action in enumerate(actions, start=1):
        body = (
            _transaction(step, action, _undone(plan, step, number))
            if isinstance(action, Transaction)
            else (f"{_act(plan, step, action)}\n{_undone(plan, step, number)}")
        )
        due = _ask(_begun(plan, step, f"undone < {number}"))
        parts.append(f"{due}\\if :lockstep_due\n{body}\n\\endif")
    parts.append(f"DELETE FROM lockstep.runbook WHERE {_of(plan, [step])};")
    return "\n".join(parts)


def _transaction(step: Step, action: Transaction, note: str) -> str:
    lock = action.lock_timeout_ms if action.lock_timeout_ms is not None else step.lock_timeout_ms
    statement = action.statement_timeout_ms if action.statement_timeout_ms is not None else step.statement_timeout_ms
    return "\n".join(
        [
            f"BEGIN;\nSET LOCAL lock_timeout = '{lock}ms';\nSET LOCAL statement_timeout = '{statement}ms';",
            *(f"{text.strip().rstrip(';')};" for text in action.statements),
            *([note] if note else []),
            "COMMIT;",
        ]
    )


def _act(plan: Plan, step: Step, action: Action) -> str:
    """Return what carries out an action that is no transaction of its own."""
    match action:
        case Transaction():
            return _transaction(step, action, "")
        case BuildIndex():
            return "\n".join(
                [
                    _patient(step),
                    _invalid(action.table, action.index, "NOT i.indisvalid"),
                    "\\if :lockstep_due\n" + _drop(action.table, action.index) + "\n\\endif",
                    _invalid(action.table, action.index, "i.indisvalid", negated=True),
                    f"\\if :lockstep_due\n{action.statement.rstrip(';')};\n\\endif",
                ]
            )
        case DropIndex():
            return f"{_patient(step)}\n{_drop(action.table, action.index)}"
        case Reindex():
            index = sql.Identifier(action.table.schema, action.index).as_string()
            return f"{_patient(step)}\nREINDEX INDEX CONCURRENTLY {index};"
        case Analyze():
            return f"{_patient(step)}\nANALYZE {action.table.identifier.as_string()};"
        case AwaitSnapshots():
            return _await_snapshots(step)
        case Backfill():
            statements = compose(plan.name, action, plain=False)
            return _batches(statements, len(action.key), action.direction, returns=0)
        case UpdateRows() | DeleteRows():
            return _batches(compose_change(action), len(action.key), "", returns=2)
        case RestoreRows() | ReinsertRows():
            return _taken_back(action)
        case unreachable:
            assert_never(unreachable)


def _patient(step: Step) -> str:
    timeout = step.statement_timeout_ms
    return f"SET lock_timeout = '{timeout}ms';\nSET statement_timeout = '{timeout}ms';"


def _drop(table: TableName, index: str) -> str:
    return f"DROP INDEX CONCURRENTLY IF EXISTS {sql.Identifier(table.schema, index).as_string()};"


def _invalid(table: TableName, index: str, condition: str, *, negated: bool = False) -> str:
    name = _literal(sql.Identifier(table.schema, index).as_string())
    there = f"EXISTS (SELECT FROM pg_index AS i WHERE i.indexrelid = to_regclass({name}) AND {condition})"
    return _ask(f"NOT {there}" if negated else there).rstrip()


def _await_snapshots(step: Step) -> str:
    older, slots = (_over_variables(_SNAPSHOTS[name].decode()) for name in ("older", "older_slots"))
    lines = [
        "DECLARE",
        f"  {_VARIABLE}mark xid := pg_current_xact_id()::xid; {_VARIABLE}since timestamptz; {_VARIABLE}running xid;",
        f"  {_VARIABLE}end timestamptz := clock_timestamp() + interval '{step.statement_timeout_ms} milliseconds';",
        "BEGIN",
        f"  IF NOT ({_SNAPSHOTS['sight'].decode()}) THEN",
        "    RAISE EXCEPTION 'the role does not see what other sessions look at: GRANT pg_monitor to it';",
        "  END IF;",
        "  COMMIT;",
        f"  {_SNAPSHOTS['now'].decode()} INTO {_VARIABLE}since, {_VARIABLE}running;",
        f"  WHILE EXISTS ({older}) OR EXISTS ({slots}) LOOP",
        f"    IF clock_timestamp() > {_VARIABLE}end THEN",
        "      RAISE EXCEPTION 'a transaction still looks at the rows as they were before they were filled: see"
        " backend_xmin in pg_stat_activity, end it, and run this again';",
        "    END IF;",
        "    PERFORM pg_sleep(0.2);",
        "    COMMIT;",
        "  END LOOP;",
        "END",
    ]
    return _loop(lines)


# ------------------------------------------------------------------------------------------------ rows


def _batches(statements: BatchStatements, width: int, direction: str, *, returns: int) -> str:
    """Return the loop over pages of keys: each batch a transaction, rows that others have locked passed over.

    ``returns`` is how many columns the statement returns that does a batch.
    """
    keys = [f"{_VARIABLE}k{number}" for number in range(width)]
    ends = [f"{_VARIABLE}u{number}" for number in range(width)]
    counts = [f"{_VARIABLE}c{number}" for number in range(returns)]
    page = [*ends, f"{_VARIABLE}found"]
    first = f"{keys[0]} IS NULL"
    lines = [
        "DECLARE",
        *(f"  {name} text;" for name in (*keys, *ends)),
        *(f"  {name} bigint;" for name in (*counts, f"{_VARIABLE}found")),
        f"  {_VARIABLE}n bigint := {FIRST_ROWS}; {_VARIABLE}turn integer := {TURNS - 1}; {_VARIABLE}left boolean;",
        "BEGIN",
        f"  FOR {_VARIABLE}sweep IN 1..{SWEEPS} LOOP",
        f"    {keys[0]} := NULL;",
        "    LOOP",
        f"      PERFORM set_config('lockstep.direction', {_literal(direction)}, true),",
        f"        set_config('lock_timeout', '{LOCK_TIMEOUT_MS}ms', true),",
        "        set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true);",
        f"      IF {first} THEN {_into(statements.first_last_page, page)}",
        f"      ELSE {_into(statements.last_page, page)} END IF;",
        f"      EXIT WHEN {ends[0]} IS NULL;",
        f"      IF {first} THEN {_into(statements.fill_first_range, counts)}",
        f"      ELSE {_into(statements.fill_range, counts)} END IF;",
        *(f"      {key} := {end};" for key, end in zip(keys, ends, strict=True)),
        "      COMMIT;",
        "      PERFORM pg_sleep(0.01);",
        "    END LOOP;",
        f"    SELECT EXISTS ({_over_variables(statements.pending.as_string())}) INTO {_VARIABLE}left;",
        "    COMMIT;",
        f"    EXIT WHEN NOT {_VARIABLE}left;",
        "    PERFORM pg_sleep(0.2);",
        "  END LOOP;",
        f"  IF {_VARIABLE}left THEN RAISE EXCEPTION 'rows are left: others keep them locked, or a trigger keeps them"
        " from being changed; run this again'; END IF;",
        "END",
    ]
    return _loop(lines)


def _taken_back(action: RestoreRows | ReinsertRows) -> str:
    statements = compose_return(action)
    start = 2**63 - 1 if isinstance(action, ReinsertRows) else 0
    names = [f"{_VARIABLE}{name}" for name in ("back", "seen", "last")]
    lines = [
        "DECLARE",
        f"  {_VARIABLE}from bigint := {start}; {_VARIABLE}n bigint := {FIRST_ROWS}; {_VARIABLE}left bigint;",
        *(f"  {name} bigint;" for name in names),
        "BEGIN",
        "  LOOP",
        f"    PERFORM set_config('lock_timeout', '{LOCK_TIMEOUT_MS}ms', true);",
        f"    {_into(statements.page, names)}",
        f"    EXIT WHEN {names[-1]} IS NULL;",
        f"    {_VARIABLE}from := {names[-1]};",
        "    COMMIT;",
        "    PERFORM pg_sleep(0.01);",
        "  END LOOP;",
        f"  {_into(statements.waiting, [f'{_VARIABLE}left'])}",
        f"  IF {_VARIABLE}left > 0 THEN RAISE EXCEPTION 'others keep rows locked; run this again'; END IF;",
        f"  {_into(statements.left, [f'{_VARIABLE}left'])}",
        f"  IF {_VARIABLE}left > 0 THEN RAISE WARNING '% rows are the application''s now (changed since, or their key"
        f" is taken): what they held before stays in %', {_VARIABLE}left, {_literal(str(action.kept))}; END IF;",
        "END",
    ]
    return _loop(lines)


def _loop(lines: Sequence[str]) -> str:
    """A limit would be for the whole loop, each batch of which is short and a transaction of its own."""
    return f"SET statement_timeout = 0;\nDO {_literal(chr(10).join(['', *lines, '']))};"


def _into(statement: sql.Composable, variables: Sequence[str]) -> str:
    into = f" INTO {', '.join(variables)}" if variables else ""
    return f"{_over_variables(statement.as_string())}{into};"


def _over_variables(statement: str) -> str:
    """Return a statement over the variables of the loop instead of parameters."""
    return _PARAMETER.sub(lambda match: f"{_VARIABLE}{match[1]}", statement).replace("%%", "%")


# ------------------------------------------------------------------------------------------------ notes and questions


def _literal(text: str) -> str:
    return sql.Literal(text).as_string()


def _echo(text: str) -> str:
    escaped = " ".join(text.split()).replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def _ask(condition: str) -> str:
    """Set psql's variable ``lockstep_due`` for the \\if that follows."""
    return f"SELECT ({condition}) AS lockstep_due \\gset\n"


def _unless(condition: str, body: str) -> str:
    return f"{_ask(f'NOT {condition}')}\\if :lockstep_due\n{body}\n\\endif"


def _raise_if(condition: str, message: str) -> str:
    body = f"BEGIN IF {condition} THEN RAISE EXCEPTION USING MESSAGE = {_literal(message)}; END IF; END"
    return f"DO {_literal(body)};"


def _record(plan: Plan, step: Step, state: str) -> str:
    values = ", ".join(map(_literal, (plan.name, step.id, state)))
    return (
        f"INSERT INTO lockstep.runbook (migration, step, state) VALUES ({values})"
        " ON CONFLICT (migration, step) DO UPDATE SET state = excluded.state, at = clock_timestamp();"
    )


def _undone(plan: Plan, step: Step, number: int) -> str:
    return f"UPDATE lockstep.runbook SET undone = {number}, at = clock_timestamp() WHERE {_of(plan, [step])};"


def _of(plan: Plan, steps: Sequence[Step]) -> str:
    listed = ", ".join(_literal(step.id) for step in steps) or "NULL"
    return f"migration = {_literal(plan.name)} AND step IN ({listed})"


def _noted(plan: Plan, steps: Sequence[Step]) -> str:
    return f"FROM lockstep.runbook WHERE {_of(plan, steps)}"


def _is_done(plan: Plan, step: Step) -> str:
    return f"EXISTS (SELECT {_noted(plan, [step])} AND state = 'done')"


def _begun(plan: Plan, step: Step, and_: str = "true") -> str:
    return f"EXISTS (SELECT {_noted(plan, [step])} AND {and_})"


def _any_begun(plan: Plan, phase: Phase, and_: str = "true") -> str:
    return f"EXISTS (SELECT {_noted(plan, phase.steps)} AND {and_})"


def _raise_unless_done(plan: Plan, phase: Phase) -> str:
    done = f"(SELECT count(*) {_noted(plan, phase.steps)} AND state = 'done')"
    return _raise_if(f"{done} <> {len(phase.steps)}", f"phase {phase.name} is not done yet: run its script first")
