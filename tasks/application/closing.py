"""The demo's last page: what happened, in numbers that were measured during it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tasks.application.application import Comparison, Report
from tasks.application.stage import MIGRATION, Stage
from tasks.database.connection import connect
from tasks.database.ledger import Ledger
from tasks.database.records import GateRecord, PhaseRecord
from tasks.planning.report import render

SHOWN = 5
"""Errors and discrepancies are listed up to here."""


def closing_lines(stage: Stage, report: Report, comparison: Comparison) -> Iterator[str]:
    """Yield the report, line by line; writes the plan document into the stage's folder."""
    with connect(stage.target, role="demo") as connection:
        ledger = Ledger(connection)
        plan = ledger.known_migration(MIGRATION).plan
        phases, gates = ledger.phases(MIGRATION), ledger.gates(MIGRATION)
    document = stage.folder / "plan.md"
    document.write_text(render(plan), encoding="utf-8")
    yield from _application_lines(report, comparison)
    yield from _phase_lines(phases)
    yield from _gate_lines(gates)
    yield f"Plan:                 {document}"
    docs = [record.result.docs for record in gates if record.result.docs]
    yield f"Data Docs:            {_docs_index(docs[-1]) if docs else 'none were written'}"


def _application_lines(report: Report, comparison: Comparison) -> Iterator[str]:
    latency = report.latency
    yield f"Rows:                 {comparison.intakes:,} intakes of {comparison.users:,} users at the end"
    yield f"Statements:           {report.statements:,} by the application, {len(report.errors)} errors"
    yield f"Refused as expected:  {report.refused:,} duplicates and invalid volumes"
    yield (
        f"Acknowledged writes:  {report.acknowledged:,} on {comparison.touched:,} rows,"
        f" {comparison.found:,} of them found as written"
    )
    shapes = " and ".join(comparison.shapes)
    yield f"Rows different:       {len(comparison.discrepancies)} of all, seen through the {shapes} shape"
    yield f"Wrong readings:       {len(report.discrepancies)}"
    yield (
        f"Statement times:      median {latency.median:.1f} ms, 99 % below {latency.p99:.1f} ms,"
        f" worst stall {latency.worst:.0f} ms ({latency.worst_statement})"
    )
    for error in report.errors[:SHOWN]:
        yield f"  error: {error.shape} {error.statement}: {error.sqlstate} {error.message}"
    for found in (*report.discrepancies, *comparison.discrepancies)[:SHOWN]:
        yield f"  different: {found.shape} shape, user {found.user}, {found.at or 'the user'}: {found.what}"


def _phase_lines(phases: tuple[PhaseRecord, ...]) -> Iterator[str]:
    yield "Phases:"
    for phase in phases:
        if phase.started_at is not None and phase.finished_at is not None:
            seconds = (phase.finished_at - phase.started_at).total_seconds()
            again = f", {phase.attempts} attempts" if phase.attempts > 1 else ""
            yield f"  {phase.phase:<20}{seconds:7.1f} s   {phase.state.value}{again}"
        else:
            yield f"  {phase.phase:<20}            {phase.state.value}"


def _gate_lines(gates: tuple[GateRecord, ...]) -> Iterator[str]:
    yield "Gates:"
    for gate in gates:
        verdict = "holds" if gate.success else "FAILED"
        yield f"  {gate.gate:<20}{len(gate.result.checks):7d} checks, {verdict}"


def _docs_index(page: str) -> Path | str:
    """Return the start page of the Data Docs that a page belongs to."""
    folder = next((parent for parent in Path(page).parents if (parent / "index.html").exists()), None)
    return folder / "index.html" if folder else page
