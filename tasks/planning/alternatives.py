"""The strategies for a change: which is the better one, what each costs here, and what asking for one means.

The rules are planner.md's: what the running application does not use is added directly; columns that both versions must
see are expanded and contracted; a table that would be written anew, nearly whole, is better copied (shadow table); many
tables at once are better moved together (blue-green). The last two are not built yet: where one of them would be
better the plan says so, and what expand-contract costs instead. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.planning.catalog import Catalog
from tasks.planning.errors import Unsupported
from tasks.planning.findings.judging import Verdict
from tasks.planning.forecast import on_table, summed
from tasks.planning.live import LiveFacts, LiveTable, conflicts
from tasks.planning.names import TableName
from tasks.planning.paces import BUILT_IN, Paces, foretold
from tasks.planning.plan import Forecast, MappedGroup, Note, Plan, Strategy
from tasks.planning.today import Survey, volume
from tasks.planning.wording import counted, duration, forecast, size

SEVERAL_COLUMNS = 3
"""Mapped columns of one table from which most of each row is written anew."""
MANY_TABLES = 10
"""Tables with mapped columns from which one switch for all of them is easier to carry out than that many phases."""
MOST_BREAKS = 3
"""Breaks of the running application that are told one by one."""


@dataclass(frozen=True)
class Better:
    """A strategy that would serve a change better than expand-contract, and why."""

    strategy: Strategy
    because: str


@dataclass(frozen=True)
class Alternative:
    """A strategy and what it would cost here; ``choice`` says what became of it."""

    strategy: str
    choice: str
    time: str
    space: str
    application: str
    back: str


# ------------------------------------------------------------------------------------------------ the better one


def better(groups: Sequence[MappedGroup], before: Catalog) -> Better | None:
    """Return the strategy that is not built yet and would be the better one for these columns."""
    columns = Counter[TableName]()
    for group in groups:
        columns[group.table] += len(group.new)
    if len(columns) >= MANY_TABLES:
        return Better("blue-green", f"columns of {counted(len(columns), 'table')} change at once")
    for name, count in sorted(columns.items()):
        table = before.table(name)
        key = table.primary_key if table is not None else None
        if key is not None and any(set(group.old) & set(key.columns) for group in groups if group.table == name):
            return Better("shadow-table", f"the primary key of {name} is written anew, with all that refers to it")
        if count >= SEVERAL_COLUMNS:
            return Better("shadow-table", f"{counted(count, 'column')} of {name} are written anew")
    return None


def notes(groups: Sequence[MappedGroup], before: Catalog) -> tuple[Note, ...]:
    """Return what the plan says of a better strategy that is not built yet."""
    found = better(groups, before)
    if found is None:
        return ()
    instead = {
        "shadow-table": "the rows are updated in place, which leaves empty space in the table until later rows fill "
        "it, and each row is as wide as both shapes until contract",
        "blue-green": "each table has its own locks and its own backfill, one after the other",
    }
    return (
        Note(
            severity="INFO",
            text=f"{found.strategy} would be the better strategy: {found.because}. It is not built yet; with "
            f"expand-contract {instead[found.strategy]}.",
        ),
    )


def require(wanted: Strategy | None, plan: Plan) -> None:
    """Raise Unsupported where the spec asks for a strategy that this plan cannot have."""
    if wanted is None or plan.is_empty or wanted == plan.strategy or wanted == "expand-contract":
        return  # a change that can be added directly has no contract, whatever it is called
    if wanted == "direct":
        raise Unsupported(
            f"the strategy direct for this change. {plan.why}",
            instead="Leave strategy out, or ask for expand-contract: run directly, statements of the running "
            "application would fail.",
        )
    raise Unsupported(
        f"the strategy {wanted}, which is not built yet",
        instead="Leave strategy out: this change is carried out by expand-contract, and the plan says what it costs.",
    )


# ------------------------------------------------------------------------------------------------ what each costs


def alternatives(plan: Plan, survey: Survey) -> tuple[Alternative, ...]:
    """Return every strategy with its costs on the database of the survey; the chosen one first."""
    facts = survey.facts
    tables = [table for name in plan.tables if (table := facts.table(name)) is not None]
    if plan.strategy == "direct":
        return (_chosen(plan, survey), _not_needed())
    as_written = () if survey.written is None else (_as_written(survey.written, survey),)
    return (_chosen(plan, survey), *as_written, _shadow_table(tables, survey), _blue_green(facts))


def _chosen(plan: Plan, survey: Survey) -> Alternative:
    stall = survey.expected.longest_stall
    contract = any(phase.name == "contract" for phase in plan.phases)
    return Alternative(
        strategy=plan.strategy,
        choice="chosen",
        time=forecast(survey.expected.seconds),
        space=f"{volume(survey.expected.disk)}{' until contract' if contract else ''}",
        application=f"no statement fails; one waits for {forecast(stall)} at the most"
        if stall.worst
        else "no statement fails or waits",
        back="at any time before contract, with what was written since; after it by the reverse migration"
        if contract
        else "at any time",
    )


def _not_needed() -> Alternative:
    return Alternative(
        strategy="expand-contract",
        choice="not needed: the running application uses nothing of it",
        time="the same",
        space="the same",
        application="the same; a second deployment, and a contract with nothing to do",
        back="the same",
    )


def _as_written(written: Sequence[Verdict], survey: Survey) -> Alternative:
    """The statements as they stand, run by Flyway or psql."""
    facts = survey.facts
    blocked = [table for verdict in written for table in _worked_on_while_blocking(verdict)]
    work = [found for verdict in written for found in _work(verdict, facts, survey.expected.paces)]
    breaks = list(
        dict.fromkeys(
            finding.hit.what.rstrip(".")
            for verdict in written
            for finding in verdict.findings
            if finding.rule.dangerous and not (finding.hit.on in blocked and verdict.facts.work)
        )
    )
    said = [f"writes wait for all of it ({', '.join(map(str, sorted(set(blocked))))})"] if blocked else []
    if breaks:
        more = f"; and {len(breaks) - MOST_BREAKS} more" if len(breaks) > MOST_BREAKS else ""
        said.append(f"statements of the running version may fail ({'; '.join(breaks[:MOST_BREAKS])}{more})")
    rewritten = sum(
        table.bytes
        for verdict in written
        for name in verdict.facts.rewrites
        if (table := facts.table(name)) is not None
    )
    return Alternative(
        strategy="the statements as they stand",
        choice="not chosen: the running application",
        time=forecast(summed(work)) if work else duration(0),
        space=f"{size(rewritten)} more while it rewrites" if rewritten else "none to speak of",
        application="; ".join(said) or "nothing dangerous was found",
        back="only as long as it has not committed; what it drops is gone then",
    )


def _work(verdict: Verdict, facts: LiveFacts, paces: Paces) -> Iterator[Forecast]:
    for work, name in verdict.facts.work:
        if (table := facts.table(name)) is not None:
            yield on_table(work, table, paces)


def _worked_on_while_blocking(verdict: Verdict) -> Iterator[TableName]:
    for _, name in verdict.facts.work:
        mode = verdict.facts.held.get(name)
        if mode is not None and conflicts(mode, "ROW EXCLUSIVE"):
            yield name


def _shadow_table(tables: Sequence[LiveTable], survey: Survey) -> Alternative:
    facts = survey.facts
    names = {table.name for table in tables}
    references = [key for key in facts.foreign_keys if key.references in names and key.table not in names]
    copied = [_copied(table.known_rows, table.heap_bytes + table.toast_bytes) for table in tables]
    built = [on_table("build", table, survey.expected.paces) for table in tables for _ in facts.indexes_of(table.name)]
    exchanged = f", and {counted(len(references), 'foreign key')} from elsewhere exchanged" if references else ""
    return Alternative(
        strategy="shadow table",
        choice="not built yet",
        time=f"roughly {forecast(summed((*copied, *built)))} to copy and index",
        space=f"{size(sum(table.bytes for table in tables))} more, as much as the tables now, until the old ones go",
        application=f"each write is done twice until the cut-over; one short ACCESS EXCLUSIVE lock a table{exchanged}",
        back="as long as the old table is written along",
    )


def _blue_green(facts: LiveFacts) -> Alternative:
    tables = [table for table in facts.tables if table.kind != "p"]
    rows, moved = (
        sum(table.known_rows for table in tables),
        sum(table.heap_bytes + table.toast_bytes for table in tables),
    )
    whole = facts.disk.database_bytes
    return Alternative(
        strategy="blue-green",
        choice="not built yet",
        time=f"roughly {forecast(_copied(rows, moved))} to copy {rows:,} rows",
        space=f"{size(whole)} more, a second server" if whole is not None else "a second server",
        application="no locks; writes stop for seconds at the switch, and no other schema change meanwhile",
        back="as long as green's writes are replicated back to blue",
    )


def _copied(rows: int, moved: int) -> Forecast:
    return foretold("backfill", rows, BUILT_IN["backfill"], moved)
