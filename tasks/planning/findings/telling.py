"""The findings of a call as one document for programs, and as text that a person can act on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import fill
from typing import Any

from tasks.planning import wording
from tasks.planning.catalog import Catalog, Table
from tasks.planning.facts import StatementFacts
from tasks.planning.findings.judging import Finding, Verdict
from tasks.planning.names import TableName, display
from tasks.planning.paces import BUILT_IN, UNKNOWN_ROW_BYTES, foretold
from tasks.planning.plan import LockMode, Work
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


def document(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return the document of ``lockstep lint --format json``."""
    return {"statements": [_statement(verdict) for verdict in verdicts]}


def _statement(verdict: Verdict) -> dict[str, Any]:
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
        "source": facts.source,
        "not_run": facts.not_run,
        "error": _error(facts),
        "findings": [_finding(finding) for finding in _by_weight(verdict)],
        "dangerous": verdict.dangerous,
    }


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


def text(verdicts: Sequence[Verdict], live: Catalog | None, unseen: int = 0) -> str:
    """Return the findings for a person.

    ``live`` is the catalog with today's sizes, where there is one; ``unseen`` counts statements behind one that failed.
    """
    parts = ["\n".join(_told(verdict, live)) for verdict in verdicts if _is_worth_telling(verdict)]
    return "\n\n".join([*parts, "\n".join(_summary(verdicts, live, unseen))]) + "\n"


def _is_worth_telling(verdict: Verdict) -> bool:
    facts = verdict.facts
    work = facts.rewrites or facts.index_builds or facts.scans
    return bool(verdict.findings or facts.not_run or work or any(_BLOCKS[mode] for mode in facts.own.values()))


def _told(verdict: Verdict, live: Catalog | None) -> Iterator[str]:
    facts = verdict.facts
    mark = "FAILS" if verdict.fails else "DANGEROUS" if verdict.stops else "allowed" if verdict.dangerous else ""
    yield f"{facts.file}:{facts.statement.line}{f'  {mark}' if mark else ''}"
    yield from _source(facts)
    yield from (f"  lock  {line}" for line in _locks(facts))
    yield from (f"  work  {line}" for line in _work(facts, live))
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


def _work(facts: StatementFacts, live: Catalog | None) -> Iterator[str]:
    for table in facts.rewrites:
        yield f"rewrites {table}, with its indexes{_long('rewrite', table, live)}"
    for name, table in facts.index_builds:
        if table not in facts.rewrites:
            yield f"builds index {display(name)} on {table}{_long('build', table, live)}"
    worked_on = {*facts.rewrites, *(table for _, table in facts.index_builds)}
    for table in facts.scans:
        if table not in worked_on:
            yield f"reads all of {table}{_long('scan', table, live)}"


def _long(work: Work, name: TableName, live: Catalog | None) -> str:
    table: Table | None = live.table(name) if live else None
    if table is None:
        return ""
    # A table that was never analyzed has a size only.
    rows = table.rows or table.bytes // UNKNOWN_ROW_BYTES
    size = f"{wording.size(table.bytes)}{f', about {table.rows:,} rows' if table.rows else ''}"
    return f" ({size}): {wording.forecast(foretold(work, rows, BUILT_IN[work]))}"


def _summary(verdicts: Sequence[Verdict], live: Catalog | None, unseen: int) -> Iterator[str]:
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
    if live is None:
        yield "How long it takes depends on the size of the tables, which is known only with --database."
    else:
        yield "Durations are rough: what two shared cores did at best, and beside other work. A plan measures here."
