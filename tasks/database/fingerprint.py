"""Whether the live schema is the one that the plan expects at this point: nothing is run on another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import eq

import psycopg
from psycopg.rows import TupleRow

from tasks.database.catalog import snapshot
from tasks.database.records import StepRecord
from tasks.planning.catalog import Catalog
from tasks.planning.errors import SchemaChanged
from tasks.planning.names import is_rebuild_of
from tasks.planning.plan import BuildIndex, DropIndex, Phase, Plan, Reindex, Step
from tasks.planning.schema_hash import describe_difference, digest, schema_hash, schema_text
from tasks.planning.states import StepState


def require_schema(
    connection: psycopg.Connection[TupleRow], plan: Plan, phase: Phase, records: Sequence[StepRecord]
) -> None:
    """Refuse a phase whose tables are not as the plan left them. Reads the catalog only.

    A phase that has not begun expects the schema of its beginning; a resumed one that of its last step that is done,
    or of the step after it where that one builds or drops an index, which no transaction records. Raises
    `SchemaChanged` with what differs. A plan without hashes (never proven) is not checked.
    """
    if not phase.schema_before:
        return
    done = {record.step for record in records if record.state is StepState.DONE}
    remaining = [step for step in phase.steps if step.id not in done]
    finished = [step for step in phase.steps if step.id in done]
    expected = finished[-1].schema_after if finished else phase.schema_before
    allowed = {expected}
    catalog = snapshot(connection)
    if remaining and isinstance(remaining[0].action, BuildIndex | DropIndex | Reindex):
        allowed.add(remaining[0].schema_after)
        catalog = _without_remains(catalog, remaining[0])
    text = schema_text(catalog, plan.scope)
    if digest(text) in allowed:
        return
    differences = "\n  ".join(describe_difference(phase.schema_text, text))
    raise SchemaChanged(
        f"The schema is not the one that phase {phase.name} of {plan.name} was planned for. Compared with the phase's "
        f"beginning:\n  {differences}",
        expected=expected,
        found=digest(text),
        remedy="Somebody changed one of the tables meanwhile. Undo that change and run again, or go back:  "
        f"lockstep rollback {plan.name}",
    )


def require_outcome(connection: psycopg.Connection[TupleRow], plan: Plan, phase: Phase) -> None:
    """Refuse to call a phase done whose tables are not as the plan proved them to be afterwards."""
    if not phase.schema_after:
        return
    found = schema_hash(snapshot(connection), plan.scope)
    if found != phase.schema_after:
        raise SchemaChanged(
            f"After phase {phase.name} of {plan.name} the schema is not the one that was proven on the clone.",
            expected=phase.schema_after,
            found=found,
            remedy="Somebody changed one of the tables meanwhile. Undo that change and run again.",
        )


def _without_remains(catalog: Catalog, step: Step) -> Catalog:
    """Leave out the invalid index that an interrupted concurrent build, rebuild or drop left: the step sees to it."""
    match step.action:
        case BuildIndex(table=name, index=index) | DropIndex(table=name, index=index):
            is_remains: Callable[[str], bool] = partial(eq, index)
        case Reindex(table=name, index=index):
            is_remains = partial(_is_copy, index)
        case _:
            return catalog
    tables = tuple(
        table.model_copy(update={"indexes": tuple(i for i in table.indexes if i.valid or not is_remains(i.name))})
        if table.name == name
        else table
        for table in catalog.tables
    )
    return catalog.model_copy(update={"tables": tables})


def _is_copy(index: str, name: str) -> bool:
    return is_rebuild_of(name, index)
