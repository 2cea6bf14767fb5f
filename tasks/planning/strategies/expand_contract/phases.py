"""The phases of expand-contract, put together from what the kinds of change contribute, table by table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from psycopg import sql

from tasks.planning.catalog import Trigger
from tasks.planning.names import PENDING_COLUMN
from tasks.planning.plan import (
    Analyze,
    Approval,
    Assignment,
    AwaitSnapshots,
    Backfill,
    Irreversible,
    LockUse,
    Phase,
    Step,
    Transaction,
)
from tasks.planning.strategies.expand_contract import (
    altered,
    columns,
    constraints,
    data,
    demands,
    indexes,
    keys,
    opening,
    reindex,
    relax,
    retype,
    sync,
)
from tasks.planning.strategies.expand_contract.apart import NOTHING_APART, Apart
from tasks.planning.strategies.expand_contract.contribution import (
    LONG_STATEMENT_TIMEOUT_MS,
    NOTHING,
    PATIENT_LOCK_TIMEOUT_MS,
    SHORT_LOCK_TIMEOUT_MS,
    Contribution,
    TableChange,
    short_step,
)
from tasks.planning.strategies.expand_contract.gating import Gates
from tasks.planning.strategies.expand_contract.mapping import Group, all_unfilled_bits
from tasks.planning.strategies.expand_contract.moved import narrowed_keys
from tasks.planning.strategies.expand_contract.swap import Swap
from tasks.planning.strategies.expand_contract.work import Surroundings, Work

SNAPSHOT_TIMEOUT_MS = 600_000
"""Ten minutes, as long as an index's removal waits for the transactions that may still use it."""
_PRINTED_ALIKE = r"(smallint|integer|bigint|numeric|text|character|uuid|boolean|date)\b"
"""Types whose text does not depend on a session's settings."""

ROOMS: tuple[Callable[[TableChange], Contribution], ...] = (
    columns.contribute,
    data.contribute,
    constraints.contribute,
    demands.contribute,
    keys.contribute,
    opening.contribute,
    indexes.contribute,
    reindex.contribute,
    altered.contribute,
    retype.contribute,
    relax.contribute,
)
"""One room a kind of change; a new kind is a new room here."""


def opens_switch(works: Sequence[Work]) -> bool:
    """Whether the tables' own changes have a switch: a contract, and something to be let in or two shapes before it."""
    ends = any(work.has_sync or work.ends for work in works)
    return ends and (bool(_let_in(works)) or any(work.has_two_shapes for work in works))


def work_on(
    change: TableChange,
    switched: TableChange,
    sequences: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {}),
    carried: Contribution = NOTHING,
) -> Work:
    """Return what the rooms contribute in both stages, and after them what is carried along for others."""
    parts = _contributed(change)
    later = _contributed(switched) if change.moved else parts
    return Work(change, parts + carried, switched, later + carried, sequences)


def _contributed(change: TableChange) -> Contribution:
    total = Contribution()
    for room in ROOMS:
        total += room(change)
    return total


def assemble(works: Sequence[Work], around: Surroundings, apart: Apart = NOTHING_APART) -> tuple[Phase, ...]:
    """Return the phases, without schema hashes; a phase that has nothing to do is left out."""
    groups = tuple(group for work in works for group in work.groups)
    let_in = _let_in(works)
    has_contract = bool(groups) or any(work.ends for work in works) or apart.has_contract
    has_switch = opens_switch(works) or bool(apart.switch) or apart.has_contract
    gates = Gates(works, around, groups, apart, has_switch=has_switch)
    phases = [_expand(works, gates, apart)]
    if any(work.is_filled or work.change.data for work in works):
        phases.append(_backfill(works, gates))
    constrain = tuple(step for work in works for step in work.parts.constrain)
    constrain += tuple(step for work in works for step in work.parts.constrain_after)
    opened = () if has_switch else let_in
    if constrain or groups or _scans(opened):
        phases.append(_constrain((*constrain, *opened), gates))
    elif opened:
        phases[-1] = phases[-1].model_copy(update={"steps": (*phases[-1].steps, *opened)})
    if has_switch:
        phases.append(_switch(works, let_in, around, apart))
    if has_contract:
        phases.append(_contract(works, gates, around, apart))
    return tuple(phases)


def _let_in(works: Sequence[Work]) -> tuple[Step, ...]:
    """Return what has to be done before the new version may come, and what the old one does not mind.

    Foreign keys go before the keys that they point to. Most changes of type cannot be undone: whatever can fail and be
    taken back comes before.
    """
    references = [step for work in works for step in work.parts.opening_references]
    opening = [step for work in works for step in work.parts.opening]
    return (*references, *opening, *(step for work in works for step in work.parts.retype))


def _scans(steps: Iterable[Step]) -> bool:
    """Whether one of the steps may read a whole table, or wait for every transaction."""
    return any(step.statement_timeout_ms >= LONG_STATEMENT_TIMEOUT_MS for step in steps)


# ----------------------------------------------------------------------------------------------- phases


def _expand(works: Sequence[Work], gates: Gates, apart: Apart) -> Phase:
    steps = [*apart.expand_first]
    for work in works:
        statements = [*work.parts.expand_columns]
        undo = list(reversed(work.parts.expand_undo))
        if work.has_sync:
            statements += _install_sync(work.change)
            undo = [*_remove_sync(work.change), *undo]
        statements += work.parts.expand_checks
        if statements:
            steps.append(
                short_step(
                    work.change,
                    f"expand/{work.change.name}",
                    _expand_title(work),
                    tuple(statements),
                    undo=(Transaction(statements=tuple(undo)),),
                )
            )
    return Phase(
        name="expand",
        purpose="Add the new shape beside the old one, and keep both in step from here on.",
        application="Nothing to do: the running version keeps reading and writing its own shape.",
        steps=(*steps, *apart.expand),
        gate_before=gates.preflight() if works else None,
    )


def _expand_title(work: Work) -> str:
    name = work.change.name
    if not work.has_two_shapes and not work.change.new and work.change.own_statements:
        return f"Mark the rows of {name} that are there for the statements that change them"
    return f"Add the new shape of {name}" + (" and the trigger that keeps both in step" if work.has_sync else "")


def _backfill(works: Sequence[Work], gates: Gates) -> Phase:
    steps: list[Step] = []
    for work in works:
        if work.is_filled:
            steps += [_analyze(work.change, "before"), _fill(work), _analyze(work.change, "after")]
        elif work.change.data:
            steps.append(_analyze(work.change, "before"))
    changed = [item for work in works for item in data.steps(work.change)]
    steps += [step for _, step in sorted(changed, key=lambda item: item[0])]
    steps += [_analyze(work.change, "after") for work in works if work.change.data and not work.is_filled]
    return Phase(
        name="backfill",
        purpose=_backfill_purpose(works),
        application="Nothing to do: no statement waits for a batch, and no batch waits for a statement.",
        steps=tuple(steps),
        gate_after=gates.backfill(),
        heavy=True,
    )


def _backfill_purpose(works: Sequence[Work]) -> str:
    parts = ["fill the new shape of the rows that were there before"] if any(work.is_filled for work in works) else []
    parts += ["change rows as the change says"] if any(work.change.data for work in works) else []
    return f"{', then '.join(parts).capitalize()}, in small batches."


def _constrain(steps: tuple[Step, ...], gates: Gates) -> Phase:
    return Phase(
        name="constrain",
        purpose="Build the indexes and validate the constraints of the new shape, without blocking writes.",
        application="Nothing to do.",
        steps=steps,
        gate_after=gates.equality(),
        heavy=True,
    )


def _switch(works: Sequence[Work], let_in: tuple[Step, ...], around: Surroundings, apart: Apart) -> Phase:
    parents = {work.change.name for work in works if work.change.has_moved_key}
    steps = [*let_in, *(step for work in works for step in keys.let_go(work.change, parents))]
    steps += [step for work in works for step in work.parts.switch]
    steps += [_await_snapshots()] if any(work.change.moved for work in works) else []
    steps += _swaps(works)
    steps += [step for work in works for step in keys.take_over(work.switched)]
    steps += [_count_old_writers(work.change) for work in works if work.has_sync and not work.change.moved]
    steps += apart.switch
    mapped = any(work.has_sync for work in works)
    reason = "Both shapes say the same in every row." if mapped else "Everything for the new version is in place."
    question = f"{reason} May the new application version be deployed from now on?"
    return Phase(
        name="switch",
        purpose="Open the new shape to the application; from here on sessions that write the old one are counted.",
        application="From the end of this phase deploy the version that reads and writes the new shape; the old "
        "version may run beside it.",
        steps=tuple(steps),
        approval=Approval(question=question) if "switch" in around.approvals else None,
        heavy=_scans(let_in),
    )


def _await_snapshots() -> Step:
    return Step(
        id="switch/snapshots",
        title="Wait until no transaction looks at the rows as they were before they were filled",
        action=AwaitSnapshots(),
        statement_timeout_ms=SNAPSHOT_TIMEOUT_MS,
    )


def _swaps(works: Sequence[Work]) -> list[Step]:
    ordered = _referring_first([work for work in works if work.change.moved])
    steps = []
    for number, work in enumerate(ordered):
        # When this one swaps back, those after it have done so already.
        others = (other.switched if n <= number else other.change for n, other in enumerate(ordered))
        functions = (_sync_function(work.change, after_switch=False), _sync_function(work.switched, after_switch=True))
        inbound = keys.inbound(work.switched, others)
        steps.append(Swap(work.change, work.switched, *work.sequences, functions, inbound).step())
    return steps


def _referring_first(works: Sequence[Work]) -> list[Work]:
    """Order tables so that none comes before one that refers to it, as far as they do not refer to each other."""
    left, ordered = list(works), list[Work]()
    while left:
        referred = {
            c.references for work in left for c in keys.foreign_keys(work.change) if c.references != work.change.name
        }
        chosen = next((work for work in left if work.change.name not in referred), left[0])
        left.remove(chosen)
        ordered.append(chosen)
    return ordered


def _contract(works: Sequence[Work], gates: Gates, around: Surroundings, apart: Apart) -> Phase:
    demanding = [step for work in works for step in work.parts_switched.enforce]
    demanding += [step for work in works for step in work.parts_switched.enforce_references]
    before = [step for work in works for step in work.parts_switched.contract_before]
    steps = [*before, *apart.contract_before, *demanding]
    steps += [step for work in works for step in _removal(work)]
    steps += [step for work in works for step in work.parts_switched.contract_after]
    steps += apart.contract_after
    removes = any(work.has_two_shapes for work in works)
    purpose = [*(["make the new demands, which the old version need not keep to"] if demanding else [])]
    purpose += ["make the new shape's constraints strict and remove the old shape"] if removes else []
    purpose += ["take away what only the old version uses"] if apart.has_contract else []
    forgets = any(work.change.own_statements for work in works)
    purpose += ["forget the old values of the changed rows"] if forgets else []
    purpose += [] if purpose else ["drop what only the old version needs, and give what is new its final name"]
    return Phase(
        name="contract",
        purpose=f"{', '.join(purpose).capitalize()}.",
        application="Before this phase no instance of the old version may run any more."
        if removes or demanding or apart.has_contract or not forgets
        else "Nothing to do.",
        steps=tuple(steps),
        gate_before=gates.contract() if works or apart.counted else None,
        gate_after=gates.final() if works else None,
        approval=Approval(question=_last_question(works, apart)) if "contract" in around.approvals else None,
        heavy=_scans(demanding),
    )


def _removal(work: Work) -> Iterable[Step]:
    """Yield the one transaction of a table that ends the old shape; it can be undone where it only gives names."""
    parts = work.parts_switched
    final = [*parts.contract_tighten, *parts.contract_drop]
    if work.has_sync:
        final = [*_still_in_step(work.change), *_remove_sync(work.change), *final]
    if final or parts.contract_rename:
        lost = Irreversible(reason=_what_is_lost(work))
        named = (Transaction(statements=tuple(reversed(parts.contract_undo))),)
        yield short_step(
            work.change,
            f"contract/{work.change.name}",
            f"Remove the old shape of {work.change.name}"
            if final and work.has_two_shapes
            else f"Forget the old values of {work.change.name}"
            if final
            else f"Give what is new on {work.change.name} its final names",
            (*final, *parts.contract_rename),
            undo=lost if final else named,
        )


def _what_is_lost(work: Work) -> str:
    if not work.has_two_shapes:
        return "The old values that were kept are gone."
    again = "The old columns are gone; the reverse migration in the plan computes them again"
    if narrowed := narrowed_keys(work.change):
        return f"{again}, but only while the application pauses: {'; '.join(narrowed)}."
    return f"{again}."


def _last_question(works: Sequence[Work], apart: Apart) -> str:
    """Return what is asked before contract; it says what no check can see."""
    demanded = [demand for work in works for demand in work.parts.demands]
    forgotten = [str(work.change.name) for work in works if work.change.own_statements]
    if forgotten and not demanded and not apart.has_contract and not any(work.has_two_shapes for work in works):
        return f"Are the changed rows of {', '.join(forgotten)} right? What they held before is forgotten now."
    question = "Is the old application version gone everywhere?"
    if any(work.change.dropped for work in works):
        question += " The old columns are removed now."
    question += "".join(f" The table {name} is dropped now, with its rows." for name in apart.counted)
    question += "".join(f" The name {name} goes now." for name in apart.renamed)
    unseen = [f"reads of {name}" for name in apart.counted] + [f"uses of the name {name}" for name in apart.renamed]
    if unseen:
        question += f" Nobody counts {' or '.join(unseen)}: look at the application."
    if demanded:
        question += f" From here on a statement that breaks one of these fails: {'; '.join(demanded)}."
    return question


# ------------------------------------------------------------------------------------------------ steps


def _install_sync(change: TableChange) -> list[str]:
    others = _user_triggers(change)
    return [_sync_function(change, after_switch=False), *sync.create_trigger(change.migration, change.name, others)]


def _user_triggers(change: TableChange) -> list[str]:
    """Return the names after which the sync's trigger has to sort; those that come at the switch are among them."""
    return [trigger.name for trigger in (*change.before.triggers, *change.after.triggers)]


def _remove_sync(change: TableChange) -> list[str]:
    others = _user_triggers(change)
    return [sync.drop_trigger(change.name, others), sync.drop_function(change.migration, change.name)]


def _still_in_step(change: TableChange) -> list[str]:
    """What the gate saw, looked at once more under the lock: nobody can write between this look and the end of sync.

    Every write whose `up` failed is recorded, so that no row has to be read here.
    """
    return [
        sync.lock_table(change.name),
        sync.require_in_step(change.migration, change.name, sync.trigger_of(change.before)),
    ]


def _sync_function(change: TableChange, *, after_switch: bool) -> str:
    key = change.key
    types = {column.name: column.type for column in (*change.before.columns, *change.new)}
    # The key is recorded as text, and has to be found again under it whatever the writing session's settings.
    plain_key = all(re.match(_PRINTED_ALIKE, types[name]) for name in key)
    pinned = () if plain_key and all(group.immutable for group in change.groups) else change.settings
    return sync.create_function(
        change.migration, change.name, key, change.groups,
        personal_key=change.personal_key, settings=pinned, after_switch=after_switch,
    )  # fmt: skip


def _count_old_writers(change: TableChange) -> Step:
    step = short_step(
        change,
        f"switch/count/{change.name}",
        f"Count the sessions that still write the old shape of {change.name}",
        (_sync_function(change, after_switch=True),),
        undo=(Transaction(statements=(_sync_function(change, after_switch=False),)),),
    )
    return step.model_copy(update={"locks": ()})


def _analyze(change: TableChange, when: str) -> Step:
    return Step(
        id=f"backfill/analyze-{when}/{change.name}",
        title=f"Refresh the statistics of {change.name} {when} the backfill",
        action=Analyze(table=change.name),
        locks=(LockUse(table=change.name, mode="SHARE UPDATE EXCLUSIVE"),),
        lock_timeout_ms=PATIENT_LOCK_TIMEOUT_MS,
        statement_timeout_ms=LONG_STATEMENT_TIMEOUT_MS,
    )


def _fill(work: Work) -> Step:
    change = work.change
    action = _backfill_of(change)
    if change.moved:
        action = action.model_copy(update={"swapped": _backfill_of(work.switched)})
    return Step(
        id=f"backfill/fill/{change.name}",
        title=f"Fill the new columns of {change.name}",
        action=action,
        locks=(LockUse(table=change.name, mode="ROW EXCLUSIVE"),),
        lock_timeout_ms=SHORT_LOCK_TIMEOUT_MS,
        statement_timeout_ms=60_000,
        forecast=change.every_row("backfill"),
    )


def _backfill_of(change: TableChange) -> Backfill:
    filled = [group for group in change.groups if group.new.columns]
    mask = all_unfilled_bits(filled)
    marker = sql.Identifier(PENDING_COLUMN).as_string()
    assignments = [a for group in filled for a in _filling(group, alone=len(filled) == 1)]
    assignments.append(Assignment(column=PENDING_COLUMN, expression=f"{marker} & ~{mask}"))
    types = {column.name: column.type for column in (*change.before.columns, *change.new)}
    # Under one name the sync does not tell the sides apart by what a batch wrote: there the gate finds such a row.
    by_sync = any(map(_writes_rows, change.before.triggers)) and all(group.inserts == "told" for group in filled)
    return Backfill(
        table=change.name,
        key=change.key,
        key_types=tuple(types[name] for name in change.key),
        unfilled=f"({marker} & {mask}) <> 0",
        assignments=tuple(assignments),
        personal_key=change.personal_key,
        direction="fill" if by_sync else "none",
    )


def _writes_rows(trigger: Trigger) -> bool:
    """Whether the trigger may change a row that the backfill fills; R fires for a replica role only, D never."""
    return trigger.before_row and trigger.on_update and trigger.enabled in ("O", "A")


def _filling(group: Group, *, alone: bool) -> Iterable[Assignment]:
    # The side that the application does not write is the one to fill: under one name, from the switch on, the old.
    for assignment in group.down if group.inserts == "new" else group.up:
        if alone:
            yield assignment
            continue
        column = sql.Identifier(assignment.column).as_string()
        marker = sql.Identifier(PENDING_COLUMN).as_string()
        unfilled = f"({marker} & {group.unfilled_bit}) <> 0"
        yield Assignment(
            column=assignment.column,
            expression=f"CASE WHEN {unfilled} THEN {assignment.expression} ELSE {column} END",
        )
