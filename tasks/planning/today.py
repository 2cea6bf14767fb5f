"""What the live database is like today, told for the plan: what is written, who is in the way, what is weak already."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import ceil

from tasks.planning.findings.judging import Verdict
from tasks.planning.forecast import PlanForecast, Volume
from tasks.planning.live import LiveFacts, OpenTransaction
from tasks.planning.names import TableName, display
from tasks.planning.rehearsal import Rehearsal
from tasks.planning.schema_debt import (
    invalid_indexes,
    missing_indexes,
    near_exhaustion,
    notable_bloat,
    redundant_indexes,
    scanned_tables,
)
from tasks.planning.timings import Timings
from tasks.planning.wording import size

OLD_TRANSACTION = 60.0
"""Seconds from which an open transaction is told."""
MOST_QUERIES = 5
NOTABLE_LOG = 512 * 2**20
"""Bytes of log from which on it is told that files have to be made for it (the stalls: docs/benchmarks.md)."""


@dataclass(frozen=True)
class Observation:
    """Something that was seen, in words; ``about`` groups what belongs together."""

    about: str
    seen: str


@dataclass(frozen=True)
class Survey:
    """One look at the live database, and what is foretold from it."""

    facts: LiveFacts
    expected: PlanForecast
    timings: Timings | None = None
    """The spec's own queries, as they are now."""
    written: tuple[Verdict, ...] | None = None
    """What the statements would do as they stand; None where that was not looked at."""
    rehearsal: Rehearsal | None = None


def observations(facts: LiveFacts, tables: Collection[TableName]) -> tuple[Observation, ...]:
    """Return what was seen of the plan's tables, and of the server where it concerns every table."""
    return tuple(
        Observation(about, seen)
        for about, found in (
            ("written", _written(facts, tables)),
            ("open transactions", _transactions(facts)),
            ("replication", _replication(facts)),
            ("weak already", _debt(facts, tables)),
            ("latency now", _latencies(facts, tables)),
            ("could not be seen", map(str, facts.unseen)),
        )
        for seen in found
    )


def foretold(expected: PlanForecast) -> tuple[Observation, ...]:
    """Return what the whole will take beside the time, who would be waited for now, and what is not known of it."""
    return (
        Observation("WAL", volume(expected.wal)),
        *(Observation("commits may wait for a new log file", sentence) for sentence in _new_log_files(expected)),
        Observation("the database grows until contract by", volume(expected.disk)),
        Observation("free disk that it needs at its highest", volume(expected.disk_needed)),
        *(Observation("in the way now", sentence) for sentence in _in_the_way(expected)),
        *(Observation("the forecast is made without", str(item)) for item in expected.unseen),
    )


def _new_log_files(expected: PlanForecast) -> Iterator[str]:
    """A file of the log that is not there yet is filled with zeros and flushed while every commit waits."""
    now, most = expected.wal_files, expected.wal.worst
    if now is not None and most > now and most >= NOTABLE_LOG:
        yield (
            f"the server keeps {size(now)} of them, and the migration writes more: up to 0.2 s at a time while it "
            f"makes others. With min_wal_size = {ceil(most / 2**30)}GB it would keep those that it has made once"
        )


def _in_the_way(expected: PlanForecast) -> Iterator[str]:
    found: dict[OpenTransaction, list[str]] = {}
    for step in expected.steps:
        for one in step.in_the_way:
            found.setdefault(one, []).append(step.step)
    for one, steps in found.items():
        since = f", open for {one.seconds:.0f} s" if one.seconds is not None else ""
        who = f"pid {one.pid} (application {one.application or '-'}, role {one.role or '-'}{since})"
        yield f"{who} would be waited for by {', '.join(steps)}"


def _written(facts: LiveFacts, tables: Collection[TableName]) -> Iterator[str]:
    for name in sorted(tables):
        rate = facts.rate_of(name)
        if rate is not None and rate.rows:
            hot = f", {rate.hot_share:.0%} of the updates HOT" if rate.hot_share is not None else ""
            yield (
                f"{name}: {rate.inserted:.3g} rows inserted, {rate.updated:.3g} updated, {rate.deleted:.3g} deleted a "
                f"second, seen over {rate.seconds:.0f} s{hot}"
            )
        elif facts.table(name) is not None:
            yield f"{name}: nothing was written while it was looked at"
    if facts.wal_rate is not None:
        yield f"the whole server: {size(round(facts.wal_rate))} of WAL a second"


def _transactions(facts: LiveFacts) -> Iterator[str]:
    for one in facts.transactions:
        if one.seconds is not None and one.seconds >= OLD_TRANSACTION:
            who = f"pid {one.pid} (application {one.application or '-'}, role {one.role or '-'}, {one.state or '-'})"
            yield f"{who} is open for {one.seconds:.0f} s: index builds and the removal of old rows wait for it"
    for prepared in facts.prepared:
        yield f"the prepared transaction {prepared.name} keeps its locks for {prepared.seconds:.0f} s by now"


def _replication(facts: LiveFacts) -> Iterator[str]:
    for standby in facts.standbys:
        behind = f"{standby.behind_seconds:.1f} s" if standby.behind_seconds is not None else "not"
        yield f"standby {standby.name}: {behind} behind"
    for slot in facts.slots:
        kept = f"keeps {size(slot.retained_bytes)} of WAL" if slot.retained_bytes is not None else "keeps no WAL"
        yield f"{slot.kind} slot {slot.name}{'' if slot.active else ', which nobody uses'}: {kept}"
    for publication in facts.publications:
        what = "every table" if publication.all_tables else ", ".join(map(str, publication.tables))
        yield f"publication {publication.name} of {what or 'no table'}"


def _debt(facts: LiveFacts, tables: Collection[TableName]) -> Iterator[str]:
    yield from _of_indexes(facts, tables)
    for constraint in facts.not_valid:
        if constraint.table in tables:
            yield f"constraint {constraint.name} of {constraint.table} was never checked against the rows"
    for scanned in scanned_tables(facts):
        if scanned.table.name in tables:
            yield f"{scanned.table.name} was read from begin to end {scanned.table.seq_scans:,} times"
    for key in near_exhaustion(facts):
        end = f", all of them about {key.ends_at:%Y-%m-%d}" if key.ends_at is not None else ""
        yield f"{key.key.table}.{key.key.column}: {key.used:.0%} of its numbers are used{end}"
    for bloated in notable_bloat(facts):
        if bloated.table in tables:
            yield (
                f"{bloated.kind} {bloated.relation}: about {size(bloated.wasted_bytes)} of "
                f"{size(bloated.bytes)} are empty (estimated: {bloated.basis})"
            )


def _of_indexes(facts: LiveFacts, tables: Collection[TableName]) -> Iterator[str]:
    for name in sorted(tables) if facts.sees_indexes else ():
        if facts.table(name) is not None and not any(index.primary for index in facts.indexes_of(name)):
            yield f"{name} has no primary key"
    for missing in missing_indexes(facts):
        if missing.key.table in tables or missing.key.references in tables:
            columns = ", ".join(map(display, missing.key.columns))
            yield (
                f"no index of {missing.key.table} begins with {columns} ({missing.key.name}): each DELETE on "
                f"{missing.key.references} reads its {missing.rows:,} rows"
            )
    for redundant in redundant_indexes(facts):
        if redundant.index.table in tables:
            yield (
                f"index {redundant.index.name} of {redundant.index.table} ({size(redundant.index.bytes)}) serves "
                f"nothing that {redundant.by.name} does not"
            )
    for invalid in invalid_indexes(facts):
        if invalid.index.table in tables:
            yield f"index {invalid.index.name} of {invalid.index.table} is invalid ({invalid.state})"


def _latencies(facts: LiveFacts, tables: Collection[TableName]) -> Iterator[str]:
    """The queries that take the most time in all: what is compared with afterwards."""
    found = {latency.queryid: latency for name in tables for latency in facts.latencies_of(name)}
    for latency in sorted(found.values(), key=lambda one: -one.total_ms)[:MOST_QUERIES]:
        times = f"{latency.mean_ms:.1f} ms on average, {latency.worst_ms:.1f} at most, {latency.calls:,} calls"
        yield f"{latency.shape}: {times}"


def volume(expected: Volume) -> str:
    """Return ``best to worst``, once when they read the same."""
    least, most = size(expected.best), size(expected.worst)
    return least if least == most else f"{least} to {most}"
