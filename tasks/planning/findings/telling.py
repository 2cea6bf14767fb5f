"""The findings of a call as one document for programs, and as text that a person can act on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from tasks.planning import wording
from tasks.planning.catalog import Catalog, Table
from tasks.planning.facts import StatementFacts
from tasks.planning.findings.judging import Finding, Verdict
from tasks.planning.names import TableName, display
from tasks.planning.paces import Pace, Paces, Source, estimated
from tasks.planning.plan import Forecast, LockMode, Work
from tasks.planning.statements import caret

_BLOCKS: dict[LockMode, str] = {
    "ACCESS SHARE": "",
    "ROW SHARE": "",
    "ROW EXCLUSIVE": "",
    "SHARE UPDATE EXCLUSIVE": "blocks only other schema changes and VACUUM",
    "SHARE": "blocks writes",
    "SHARE ROW EXCLUSIVE": "blocks writes",
    "EXCLUSIVE": "blocks writes",
    "ACCESS EXCLUSIVE": "blocks reads and writes",
}
_SHOWN_LINES = 6
"""Lines of a statement that are shown."""
_WIDTH = 110
"""Characters of a line of explanation."""
_WEIGHT = {"CRITICAL": 0, "WARNING": 1, "INFO": 2}
_RESTING: tuple[LockMode, ...] = ("ACCESS SHARE",)
"""Reading a table, which everything does: not told."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the tables of a live database are, and what is known of how fast it works."""

    catalog: Catalog
    paces: Paces

    def takes(self, work: Work, table: TableName) -> tuple[Table, Forecast, Pace] | None:
        """Return how long work on a table takes; None for one that the statements themselves make."""
        found = self.catalog.table(table)
        return (found, *estimated(work, found, self.paces)) if found is not None else None


def document(verdicts: Sequence[Verdict], sizes: Sizes | None = None) -> dict[str, Any]:
    """Return the document of ``lockstep lint --format json``."""
    return {"statements": [_statement(verdict, sizes) for verdict in verdicts]}


def _statement(verdict: Verdict, sizes: Sizes | None) -> dict[str, Any]:
    facts = verdict.facts
    return {
        "index": facts.index,
        "file": facts.file,
        "line": facts.statement.line,
        "sql": facts.statement.sql,
        "in_transaction": facts.in_transaction,
        "locks": {str(table): printed(mode) for table, mode in sorted(facts.own.items()) if mode not in _RESTING},
        "held": {str(table): printed(mode) for table, mode in sorted(facts.held.items()) if mode not in _RESTING},
        "index_locks": {str(index): printed(mode) for index, mode in sorted(facts.index_locks.items())},
        "rewrites": [str(table) for table in facts.rewrites],
        "index_builds": [f"{display(table.schema)}.{display(name)}" for name, table in facts.index_builds],
        "scans": [str(table) for table in facts.scans],
        "validations": [display(name) for name, _ in facts.validations],
        "seconds": [_seconds(work, table, sizes) for work, table in facts.work] if sizes else [],
        "source": facts.source,
        "not_run": facts.not_run,
        "error": _error(facts),
        "findings": [_finding(finding) for finding in _by_weight(verdict)],
        "dangerous": verdict.dangerous,
    }


def _seconds(work: Work, table: TableName, sizes: Sizes) -> dict[str, Any]:
    known = sizes.takes(work, table)
    if known is None:
        return {"work": work, "table": str(table), "best": None, "worst": None, "pace": None, "known_by": None}
    _, forecast, pace = known
    return {
        "work": work, "table": str(table), "best": forecast.best, "worst": forecast.worst, "pace": pace.source,
        "known_by": pace.said,
    }  # fmt: skip


def printed(mode: LockMode) -> str:
    """Return a lock mode as pg_locks prints it.

    >>> printed("SHARE ROW EXCLUSIVE")
    'ShareRowExclusiveLock'
    """
    return f"{mode.title().replace(' ', '')}Lock"


def _error(facts: StatementFacts) -> str | None:
    if facts.refused is None:
        return None
    return f"{facts.refused.message} [{facts.refused.sqlstate or 'no SQLSTATE'}]"


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.rule.id,
        "severity": finding.rule.severity,
        "message": finding.message,
        "safe": finding.rule.safe,
        "allowed": finding.allowed,
    }


def _by_weight(verdict: Verdict) -> list[Finding]:
    return sorted(verdict.findings, key=lambda item: (item.allowed is not None, _WEIGHT[item.rule.severity]))


# ------------------------------------------------------------------------------------------------ text


def text(verdicts: Sequence[Verdict], sizes: Sizes | None, unseen: int = 0) -> str:
    """Return the findings for a person.

    ``sizes`` are today's, of a live database; ``unseen`` counts statements behind one that failed.
    """
    parts = ["\n".join(_told(verdict, sizes)) for verdict in verdicts if _is_worth_telling(verdict)]
    return "\n\n".join([*parts, "\n".join(_summary(verdicts, sizes, unseen))]) + "\n"


def _is_worth_telling(verdict: Verdict) -> bool:
    facts = verdict.facts
    work = facts.rewrites or facts.index_builds or facts.scans
    return bool(verdict.findings or facts.not_run or work or any(_BLOCKS[mode] for mode in facts.own.values()))


def _told(verdict: Verdict, sizes: Sizes | None) -> Iterator[str]:
    facts = verdict.facts
    mark = "FAILS" if verdict.fails else "DANGEROUS" if verdict.stops else "allowed" if verdict.dangerous else ""
    yield f"{facts.file}:{facts.statement.line}{f'  {mark}' if mark else ''}"
    yield from _source(facts)
    yield from (f"  lock  {line}" for line in _locks(facts))
    yield from (f"  work  {line}" for line in _work(facts, sizes))
    if facts.not_run is not None:
        yield f"  {facts.not_run}"
    for finding in _by_weight(verdict):
        allowed = f" (allowed: {finding.allowed})" if finding.allowed is not None else ""
        yield f"  {finding.rule.severity} {finding.rule.id}{allowed}"
        if finding.allowed is None:
            yield _wrapped(finding.message)
            yield _wrapped(f"Instead: {finding.rule.safe}")


def _wrapped(sentence: str) -> str:
    indent = " " * 4
    return fill(
        sentence,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _source(facts: StatementFacts) -> Iterator[str]:
    """Yield the statement with its line numbers, and a caret where the server stopped."""
    lines = (" " * (facts.statement.column - 1) + facts.statement.sql).split("\n")
    refused = facts.refused
    last = max(_SHOWN_LINES, refused.line - facts.statement.line + 1 if refused else 0)
    for number, line in enumerate(lines[:last], start=facts.statement.line):
        yield f"  {number:>4} | {line}"
        if refused is not None and number == refused.line:
            yield f"       | {caret(line[: refused.column - 1])}"
            if refused.hint:
                yield f"       {refused.hint}"
    if len(lines) > last:
        yield f"       … {len(lines) - last} more lines"


def _locks(facts: StatementFacts) -> Iterator[str]:
    for table, mode in sorted(facts.own.items()):
        if mode not in _RESTING:
            yield f"{mode} on {table}{f': {_BLOCKS[mode]}' if _BLOCKS[mode] else ''}"
    for table, mode in sorted(facts.held.items()):
        if _BLOCKS[mode] and facts.own.get(table) != mode:
            yield f"{mode} on {table}, held by its transaction: {_BLOCKS[mode]}"


def _work(facts: StatementFacts, sizes: Sizes | None) -> Iterator[str]:
    for table in facts.rewrites:
        yield f"rewrites {table}, with its indexes{_long('rewrite', table, sizes)}"
    for name, table in facts.index_builds:
        if table not in facts.rewrites:
            yield f"builds index {display(name)} on {table}{_long('build', table, sizes)}"
    worked_on = {*facts.rewrites, *(table for _, table in facts.index_builds)}
    for table in facts.scans:
        if table not in worked_on:
            yield f"reads all of {table}{_long('scan', table, sizes)}"


def _long(work: Work, name: TableName, sizes: Sizes | None) -> str:
    known = sizes.takes(work, name) if sizes else None
    if known is None:
        return ""
    table, forecast, pace = known
    size = f"{wording.size(table.bytes)}{f', about {table.rows:,} rows' if table.rows else ''}"
    return f" ({size}): {wording.forecast(forecast)}, {_SOURCES[pace.source][0]}"


def _summary(verdicts: Sequence[Verdict], sizes: Sizes | None, unseen: int) -> Iterator[str]:
    stops = sum(verdict.stops for verdict in verdicts)
    left = [finding for verdict in verdicts for finding in verdict.findings if finding.allowed is None]
    counts = ", ".join(
        f"{sum(finding.rule.severity == severity for finding in left)} {severity}" for severity in _WEIGHT
    )
    yield f"{wording.counted(len(verdicts), 'statement')}, {stops} dangerous; findings: {counts}."
    if unseen:
        yield f"{unseen} more behind one that fails: not looked at."
    measured = {verdict.facts.server_major for verdict in verdicts if verdict.facts.source == "measured"}
    if measured:
        yield f"Measured on PostgreSQL {', '.join(map(str, sorted(measured)))}, on a copy of the schema without rows."
    if len({verdict.facts.source for verdict in verdicts} - {"measured"}):
        yield "Told by rules from the statements alone, without a server: locks and work are not measured."
    if sizes is None:
        yield "How long it takes depends on the size of the tables, which is known only with --database."
    else:
        yield from _known_by(verdicts, sizes)


_SOURCES: dict[Source, tuple[str, str]] = {
    "ledger": ("as in earlier runs", "As in earlier runs: {}."),
    "calibration": ("by a calibration", "By a calibration that a plan has made: {}."),
    "built-in": ("roughly", "Roughly: what two shared cores did at best, and beside other work. A plan measures here."),
}
"""Behind a duration, and once for all of them."""


def _known_by(verdicts: Sequence[Verdict], sizes: Sizes) -> Iterator[str]:
    worked_on = dict.fromkeys(work for verdict in verdicts for work in verdict.facts.work)
    paces = [known[2] for work, table in worked_on if (known := sizes.takes(work, table)) is not None]
    for source, (_, sentence) in _SOURCES.items():
        if said := dict.fromkeys(pace.said for pace in paces if pace.source == source):
            yield sentence.format("; ".join(said))
    if paces:
        yield from (f"Durations are told without {item}." for item in sizes.paces.unseen)
