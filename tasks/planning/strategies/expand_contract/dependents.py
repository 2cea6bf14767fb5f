"""What depends on a column that is renamed, or goes: carried along where that is safe, named and refused where not.

Views and functions with a parsed body that read a renamed column read its twin from the switch on, when both say the
same; a view on such a view needs nothing, since its columns stay. Policies and extended statistics follow in the
table's own contract transaction. A trigger with a column list listens to both columns between switch and contract.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from psycopg import sql

from tasks.planning import parser
from tasks.planning.catalog import Catalog, Column, Dependent, SchemaObject, Trigger
from tasks.planning.errors import Unsupported
from tasks.planning.names import display, verbatim
from tasks.planning.objects.inverse import pieces, replaced_view
from tasks.planning.objects.meant import Meant
from tasks.planning.objects.mentions import mentioning, triggers_that_use
from tasks.planning.objects.privileges import of_another_column, revoke_of
from tasks.planning.plan import Analyze, LockUse, Note, Step
from tasks.planning.strategies.expand_contract.apart import Apart, lone_step
from tasks.planning.strategies.expand_contract.contribution import (
    LONG_STATEMENT_TIMEOUT_MS,
    PATIENT_LOCK_TIMEOUT_MS,
    Contribution,
    TableChange,
)

_REFUSED = {
    "materialized view": "Drop it before the migration and create it again afterwards: to read the new column it has "
    "to be filled anew.",
    "rule": "Drop the rule first: it rewrites the statements of both application versions.",
    "generated column": "Drop the generated column first (nobody writes it), and add it again after the migration.",
    "publication": "Take the column out of the publication first (ALTER PUBLICATION … SET TABLE), and put it back "
    "afterwards: subscribers get the columns by name.",
    "sequence": "Only plain columns can be renamed or dropped yet: this one owns a sequence.",
}


@dataclass(frozen=True)
class Carried:
    """What follows one table's columns: parts of the table's own transactions, and steps apart."""

    parts: Contribution
    apart: Apart


def carry(change: TableChange, before: Catalog, after: Catalog, meant: Meant) -> Carried:
    """Return what carries the dependents of the table's old columns along. Raises `Unsupported` for those it cannot."""
    parts, apart = Contribution(), Apart()
    for dependent in change.before.dependents:
        if not set(dependent.columns) & change.dropped_names:
            continue
        if not meant.is_replaced(dependent.kind, dependent.name):
            match dependent.kind:
                case "view" | "function":
                    apart += Apart(switch=tuple(_replaced(dependent, before, after)))
                case "policy":
                    parts += _policy(change, dependent)
                case "statistics":
                    parts += _statistics(change, dependent)
                case kind:
                    columns = ", ".join(sorted(set(dependent.columns) & change.dropped_names))
                    raise Unsupported(
                        f"changing {change.name}.{display(columns)} while the {kind} {dependent.name} depends on it",
                        instead=_REFUSED[kind],
                    )
    for trigger in change.before.triggers:
        if not meant.explained & {("trigger", str(change.name), trigger.name)}:
            parts += _trigger(change, trigger)
    parts += _column_grants(change)
    apart += Apart(notes=tuple(_text_bodies(change, before, meant)))
    return Carried(parts, apart)


def _replaced(dependent: Dependent, before: Catalog, after: Catalog) -> Iterator[Step]:
    old, new = _object(before, dependent), _object(after, dependent)
    if old.definition == new.definition:
        return
    if dependent.kind == "view":
        there, back = replaced_view(pieces(new.definition)[0]), replaced_view(pieces(old.definition)[0])
    else:
        there, back = new.definition, old.definition
    yield lone_step(
        f"switch/follow/{dependent.kind}/{dependent.name}",
        f"Let the {dependent.kind} {dependent.name} read the new columns",
        (there,),
        undo=(back,),
    )


def _object(catalog: Catalog, dependent: Dependent) -> SchemaObject:
    return next(item for item in catalog.objects if (item.kind, item.name) == (dependent.kind, dependent.name))


# ------------------------------------------------------------------------------------------------ of the table itself


def _after(change: TableChange, dependent: Dependent) -> Dependent:
    return next(i for i in change.after.dependents if (i.kind, i.name) == (dependent.kind, dependent.name))


def _policy(change: TableChange, dependent: Dependent) -> Contribution:
    """Made again in the contract transaction, whose lock keeps everybody out meanwhile."""
    return Contribution(contract_tighten=(f"DROP POLICY {dependent.name}", _after(change, dependent).definition))


def _statistics(change: TableChange, dependent: Dependent) -> Contribution:
    """They fall with the old column; made again, they are empty until an ANALYZE."""
    analyze = Step(
        id=f"contract/analyze/{dependent.name}",
        title=f"Fill the extended statistics {dependent.name} again",
        action=Analyze(table=change.name),
        locks=(LockUse(table=change.name, mode="SHARE UPDATE EXCLUSIVE"),),
        lock_timeout_ms=PATIENT_LOCK_TIMEOUT_MS,
        statement_timeout_ms=LONG_STATEMENT_TIMEOUT_MS,
    )
    return Contribution(contract_rename=(_after(change, dependent).definition,), contract_after=(analyze,))


def _trigger(change: TableChange, trigger: Trigger) -> Contribution:
    """Let a trigger that names a changed column in its list or condition follow it."""
    new = next((item for item in change.after.triggers if item.name == trigger.name), None)
    if new is None or new.definition == trigger.definition:
        return Contribution()
    where = f"the trigger {display(trigger.name)} of {change.name}, which names a changed column"
    if " WHEN (" in trigger.definition and trigger.before_row:
        raise Unsupported(
            f"{where} in its WHEN",
            instead="It fires before the sync, when only one of the two columns is known: make it an AFTER trigger, or "
            "put the condition into its function.",
        )
    old_columns, new_columns = _listed(trigger.definition), _listed(new.definition)
    both = _with_columns(new.definition, [*new_columns, *(c for c in old_columns if c not in new_columns)])
    drop = sql.SQL("DROP TRIGGER {} ON {}").format(sql.Identifier(trigger.name), change.name.identifier).as_string()
    enabled = _enabling(change, trigger)
    step = lone_step(
        f"switch/follow/trigger/{change.name}/{trigger.name}",
        f"Let the trigger {trigger.name} of {change.name} listen to the new columns too",
        (drop, both, *enabled),
        undo=(drop, trigger.definition, *enabled),
        locks=(LockUse(table=change.name, mode="ACCESS EXCLUSIVE"),),
    )
    return Contribution(switch=(step,), contract_tighten=(drop, new.definition, *enabled))


def _enabling(change: TableChange, trigger: Trigger) -> tuple[str, ...]:
    words = {"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}.get(trigger.enabled)
    name = sql.Identifier(trigger.name)
    return (change.alter("{w} TRIGGER {t}", w=verbatim(words), t=name),) if words else ()


def _listed(definition: str) -> list[str]:
    """Return the columns of UPDATE OF, as the server printed them; empty without such a list."""
    start, end = _span(definition)
    return [part.strip() for part in definition.encode()[start:end].decode().split(",")] if end else []


def _with_columns(definition: str, columns: list[str]) -> str:
    start, end = _span(definition)
    source = definition.encode()
    return f"{source[:start].decode()}{', '.join(columns)} {source[end:].decode()}" if end else definition


def _span(definition: str) -> tuple[int, int]:
    """Return where the list of UPDATE OF stands, in bytes; (0, 0) without one."""
    words = parser.tokens(definition)
    for one, two in pairwise(words):
        if (one.word, two.word) == ("UPDATE", "OF"):
            stop = next(word.start for word in words if word.start > two.start and word.word in ("ON", "OR"))
            return two.end + 1, stop
    return 0, 0


def _column_grants(change: TableChange) -> Contribution:
    """A privilege on a renamed column alone holds for its twin from the beginning."""
    given: list[str] = []
    names = {column.attnum: column.name for column in change.after.columns}
    for column in change.dropped:
        twin = names.get(column.attnum)
        if twin is not None and twin != column.name:
            given += [text for grant in change.before.grants if (text := of_another_column(grant, column.name, twin))]
    return Contribution(expand_columns=tuple(given), expand_undo=tuple(revoke_of(grant) for grant in given))


# ------------------------------------------------------------------------------------------------ bodies of text


def _text_bodies(change: TableChange, before: Catalog, meant: Meant) -> Iterator[Note]:
    kept = {trigger.name for trigger in change.after.triggers}
    recorded = {item.name for item in change.before.dependents if item.kind == "function"}
    for column in change.dropped:
        for trigger, function in triggers_that_use(before, change.before, column.name):
            if trigger.name not in kept and not trigger.before_row:
                continue  # it is dropped before the column
            _require_replaced(change, column, trigger, function, meant)
        for function in mentioning(before, change.name.name, column.name):
            if not meant.is_replaced(function.kind, function.name) and function.name not in recorded:
                yield Note(
                    severity="WARNING",
                    text=f"The {function.kind} {function.name} has both {display(change.name.name)} and "
                    f"{display(column.name)} in its text. If it uses the column, replace it in this change: it would "
                    "fail from contract on.",
                )


def _require_replaced(
    change: TableChange, column: Column, trigger: Trigger, function: SchemaObject, meant: Meant
) -> None:
    where = f"changing {change.name}.{display(column.name)} while the trigger {display(trigger.name)} uses it: "
    if trigger.before_row and any(column.name in group.old.names for group in change.groups if group.new.columns):
        raise Unsupported(
            f"{where}its function {function.name} runs before the sync, when only one of the two columns is known",
            instead="Drop the trigger before the migration and create it again afterwards, or let an AFTER trigger do "
            "its work.",
        )
    if not meant.is_replaced("function", function.name):
        raise Unsupported(
            f"{where}its function {function.name} would fail for every write from contract on",
            instead="Replace the function in the same change (CREATE OR REPLACE FUNCTION) by one that uses what is "
            "there afterwards.",
        )
