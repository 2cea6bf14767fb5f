"""How a plan is gone back from, how long that takes and who hears of what: made of the plan's own steps and gates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tasks.planning.live import BLOCKS_WRITES
from tasks.planning.names import TableName
from tasks.planning.paces import BUILT_IN, foretold, moved_bytes, undo_forecast
from tasks.planning.plan import (
    Action,
    Forecast,
    Irreversible,
    Phase,
    Plan,
    ReinsertRows,
    RestoreRows,
    RollbackTier,
    Step,
    Work,
)

WITHIN: dict[RollbackTier, str] = {
    "immediate": "5 min",
    "emergency": "30 min",
    "planned": "a window of its own",
    "none": "–",
}
_SECONDS: dict[RollbackTier, float] = {"immediate": 300, "emergency": 1800}


@dataclass(frozen=True)
class Stalls:
    """Steps whose lock keeps writes waiting: how many, for how long one of them at the most (milliseconds)."""

    steps: int
    longest_wait_ms: int
    """While it asks for its lock; what waits behind it goes on when it gives up."""
    work: Forecast
    """Of the one that holds its lock longest."""


@dataclass(frozen=True)
class Recovery:
    """Going back once a phase is done, to where the migration began."""

    phase: str
    way: str
    takes: Forecast | None
    """None where there is no way back by itself."""
    complexity: str
    keeps: str
    """What of the rows written since is kept."""


@dataclass(frozen=True)
class Tier:
    name: RollbackTier
    within: str
    when: str
    how: str
    command: str
    holds: str
    """Whether the time is kept, by the plan's own numbers."""


@dataclass(frozen=True)
class Criterion:
    """A row of a matrix: what is looked at, and what follows."""

    what: str
    threshold: str
    otherwise: str


@dataclass(frozen=True)
class Announcement:
    when: str
    who: str
    what: str


def stalls(plan: Plan) -> Stalls:
    """Return what the application's writes may notice of the plan's locks."""
    found = [
        step for phase in plan.phases for step in phase.steps if any(lock.mode in BLOCKS_WRITES for lock in step.locks)
    ]
    longest = max((_held(step) for step in found), key=lambda held: held.worst, default=Forecast(best=0, worst=0))
    return Stalls(len(found), max((step.lock_timeout_ms for step in found), default=0), longest)


def _held(step: Step) -> Forecast:
    """Return how long the step works under its lock: at the most until its timeout ends it."""
    limit = step.statement_timeout_ms / 1000 or step.forecast.worst
    return Forecast(best=min(step.forecast.best, limit), worst=min(step.forecast.worst, limit))


# ------------------------------------------------------------------------------------------------ going back


def recoveries(plan: Plan) -> tuple[Recovery, ...]:
    """Return one a phase, in their order."""
    found = []
    total = Forecast(best=0, worst=0)
    stuck: str | None = None
    for phase in plan.phases:
        reason = next((step.undo.reason for step in phase.steps if isinstance(step.undo, Irreversible)), None)
        stuck = stuck or reason
        total = _plus(total, undoing(plan, phase))
        found.append(_recovery(plan, phase, total, stuck))
    return tuple(found)


def _recovery(plan: Plan, phase: Phase, total: Forecast, stuck: str | None) -> Recovery:
    if stuck is not None:
        way = "the reverse migration, itself without downtime" if plan.reverse else "a backup"
        return Recovery(phase.name, way, None, f"high: {stuck}", "everything that was written, but for what is named")
    names = [one.name for one in plan.phases]
    switched = "switch" in names[: names.index(phase.name) + 1]
    rows = any(isinstance(action, RestoreRows | ReinsertRows) for step in phase.steps for action in _undo(step))
    return Recovery(
        phase.name,
        f"lockstep rollback {plan.name}{' --old-version-deployed' if switched else ''}",
        total,
        "medium: the old version has to be deployed again first"
        if switched
        else "medium: rows change"
        if rows
        else "low",
        "everything: both shapes have it" if plan.groups else "everything",
    )


def undoing(plan: Plan, phase: Phase) -> Forecast:
    """Return how long the phase's undo takes, waiting for locks not counted."""
    total = Forecast(best=0, worst=0)
    for step in phase.steps:
        takes = step.undo_forecast or undo_forecast(step, lambda work, names: _built_in(plan, work, names))
        total = _plus(total, takes) if takes is not None else total
    return total


def _undo(step: Step) -> tuple[Action, ...]:
    return () if isinstance(step.undo, Irreversible) else step.undo


def _built_in(plan: Plan, work: Work, names: Collection[TableName]) -> Forecast:
    """Where nobody looked at the database: at the paces that are built in, the catalog's estimates of its size."""
    found = [
        foretold(
            work, facts.rows, BUILT_IN[work], moved_bytes(work, facts.bytes - facts.toast_bytes, facts.toast_bytes)
        )
        for facts in plan.current
        if facts.name in names
    ]
    return max(found, key=lambda one: one.worst, default=Forecast(best=0, worst=0))


def _plus(one: Forecast, other: Forecast) -> Forecast:
    return Forecast(best=round(one.best + other.best, 2), worst=round(one.worst + other.worst, 2))


def tiers(plan: Plan) -> tuple[Tier, ...]:
    """Return the three tiers of rolling back, with what this plan needs for each."""
    if plan.is_empty:
        return ()
    back = recoveries(plan)
    before = [one.takes for one in back if one.takes is not None and "--old-version" not in one.way]
    behind = [one.takes for one in back if one.takes is not None]
    return (
        Tier(
            "immediate", WITHIN["immediate"], "a gate finds wrong data, or a constraint is broken, before the switch",
            "automatic: the flow takes back what it did", f"lockstep rollback {plan.name}",
            _holds("immediate", before),
        ),
        Tier(
            "emergency", WITHIN["emergency"], "the application errs or is slow; before contract",
            "deploy the old version, then take back everything",
            f"lockstep rollback {plan.name} --old-version-deployed",
            _holds("emergency", behind),
        ),
        Tier(
            "planned", WITHIN["planned"], "the change itself is not wanted any more; after contract",
            "the reverse migration, made of the plan: a migration like this one"
            if plan.reverse
            else "nothing is taken from the old version: the rollback above holds as long as the ledger is kept",
            f"lockstep run {plan.name}-reverse.yaml" if plan.reverse else f"lockstep rollback {plan.name}",
            "as long as this migration took" if plan.reverse else "as above",
        ),
    )  # fmt: skip


def _holds(tier: RollbackTier, forecasts: list[Forecast]) -> str:
    worst = max((forecast.worst for forecast in forecasts), default=0.0)
    verdict = "kept" if worst <= _SECONDS[tier] else "not kept in the worst case"
    return f"{verdict}: {worst:.0f} s at the most, locks not counted"


# ------------------------------------------------------------------------------------------------ going and not going


def going(plan: Plan) -> tuple[Criterion, ...]:
    """Return the go / no-go matrix: every gate with what it asks, and what holds a phase up."""
    return tuple(criterion for phase in plan.phases for criterion in _going(plan, phase))


def _going(plan: Plan, phase: Phase) -> Iterator[Criterion]:
    for gate, when in ((phase.gate_before, "before"), (phase.gate_after, "after")):
        if gate is None:
            continue
        kinds = Counter(check.severity for check in gate.checks)
        warned = f", {kinds['WARNING']} more to be shown" if kinds["WARNING"] else ""
        wrong = any(check.corruption for check in gate.checks)
        switched = "switch" in [one.name for one in plan.phases[: plan.phases.index(phase)]]
        yield Criterion(
            f"gate {gate.name}, {when} {phase.name}",
            f"0 failing in each of {kinds['CRITICAL']} checks{warned}",
            "stop, and go back where the data is wrong" if wrong and not switched else "stop, repair, run again",
        )
    if phase.approval is not None:
        yield Criterion(f"{phase.name}: {phase.approval.question}", "yes, by a person", "wait")
    if phase.name == "contract" and plan.soak_seconds:
        yield Criterion("time since the switch", f"{plan.soak_seconds / 3600:.3g} h", "wait")
    if phase.heavy and plan.window is not None:
        yield Criterion(f"maintenance window for {phase.name}", str(plan.window), "wait for the next one")
    if phase.heavy:
        for name, value in plan.throttle.set:
            yield Criterion(f"{phase.name}: {name}", f"at most {value}", "wait by itself")


def going_back(plan: Plan) -> tuple[Criterion, ...]:
    """Return the matrix for rolling back: what is seen, from when on, and which tier it calls for."""
    if plan.is_empty:
        return ()
    corrupt = sum(
        c.corruption for phase in plan.phases for g in (phase.gate_before, phase.gate_after) if g for c in g.checks
    )
    found = [
        Criterion("a check that means wrong data", f"1 failing unit in one of {corrupt}", "immediate")
    ] if corrupt else []  # fmt: skip
    found.append(Criterion("errors of the application that name a changed object", "the first one", "emergency"))
    found.append(
        Criterion(
            "a statement of the application that waits",
            f"longer than {max(1000, 10 * stalls(plan).longest_wait_ms)} ms",
            "pause (lockstep pause), then emergency if it stays",
        )
    )  # fmt: skip
    if plan.groups:
        found.append(
            Criterion(
                "rows that cannot be brought into the other shape", "more than are repaired in an hour", "emergency"
            )
        )
    found.append(Criterion("the change is not wanted any more", "a decision", "planned"))
    return tuple(found)


def announcements(plan: Plan) -> tuple[Announcement, ...]:
    """Return the communication plan: what has to be told to whom, phase by phase."""
    return tuple(item for phase in plan.phases for item in _announced(plan, phase))


def _announced(plan: Plan, phase: Phase) -> Iterator[Announcement]:
    if phase is plan.phases[0]:
        changed = ", ".join(str(table) for table in plan.tables)
        yield Announcement(
            "before the first phase", "everybody who changes the schema",
            f"{plan.name} begins: no other schema change of {changed} until it is over",
        )  # fmt: skip
    if phase.heavy:
        yield Announcement(f"before {phase.name}", "operations", f"long work on the database begins: {phase.purpose}")
    if phase.approval is not None:
        yield Announcement(f"before {phase.name}", "who approves", phase.approval.question)
    if not phase.application.startswith("Nothing to do"):
        yield Announcement(f"with {phase.name}", "the application's team", phase.application)
    if phase is plan.phases[-1]:
        yield Announcement(
            "at the end", "everybody who heard of the beginning", f"{plan.name} is over: lockstep status"
        )
