"""The goals of expand-contract in one run, as a Markdown table with the ratios side by side.

    python -m tests.benchmarks.backfill --rows 5000000 [--parts fills load] [--repeats N] [--pgroll PROGRAM] [--out DIR]

Every fill gets a fresh copy, block by block, of the same database on a server that has just made a checkpoint; the
order changes from repeat to repeat, and medians are shown. On a shared machine look at CPU time, not at seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tasks.database.connection import Target
from tests.benchmarks import contest, picture
from tests.benchmarks.contest import Measured
from tests.benchmarks.load import CLIENTS, Weather, migrate_under_load, percentile
from tests.benchmarks.stage import Stage, machine, settings, stage
from tests.benchmarks.waits import longest_for_a_lock, reasons

UPDATE, LOCKSTEP, UNKNOWN, PGROLL = "one UPDATE", "Lockstep", "Lockstep, never analysed", "pgroll"

PARTS = ("fills", "load")
STALL_MS = 50
"""What is looked into."""
_GOALS = ("| what | goal | measured | |", "|---|---|---|---|")

Contestant = Callable[[Target], Measured]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of the table that is filled")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured; both without it")
    parser.add_argument("--load-rows", type=int, help="rows under the application; as many without it, ~1 GB a million")
    parser.add_argument("--repeats", type=int, default=3, help="how often every contestant fills")
    parser.add_argument("--calm", type=float, default=30.0, help="seconds of the application without a migration")
    parser.add_argument("--pgroll", type=Path, help="the program pgroll, to be measured in the same run")
    parser.add_argument("--out", type=Path, help="folder for load.png")
    given = parser.parse_args(arguments)
    with stage(contest.setup(given.rows)) as place, tempfile.TemporaryDirectory() as folder:
        say(f"{machine(place)}. Settings: {settings()}.")
        if "fills" in given.parts:
            say(f"\n{given.rows:,} rows, median of {given.repeats}:\n")
            measured = compete(place, given.repeats, given.pgroll)
            for line in (*fill_goals(measured), "", *fills(measured)):
                say(line)
        if "load" in given.parts:
            rows = given.load_rows or given.rows
            say(f"\n{rows:,} rows, {CLIENTS} clients through both shapes, load average {os.getloadavg()[0]:.1f}:\n")
            weather = migrate_under_load(place, rows, given.calm, Path(folder))
            for line in (*load_goals(weather), "", *statements(weather), "", *stalls(weather)):
                say(line)
            if given.out is not None:
                given.out.mkdir(parents=True, exist_ok=True)
                picture.draw(weather, given.out / "load.png")


def compete(place: Stage, repeats: int, pgroll: Path | None) -> dict[str, list[Measured]]:
    """Let every contestant fill its copies, in turns whose order changes."""
    contestants: dict[str, Contestant] = {
        UPDATE: contest.one_update,
        LOCKSTEP: contest.by_lockstep,
        UNKNOWN: contest.by_lockstep_never_analysed,
    }
    if pgroll is not None:
        contestants[PGROLL] = partial(contest.by_pgroll, program=pgroll)
    measured: dict[str, list[Measured]] = {name: [] for name in contestants}
    for number in range(repeats):
        order = list(contestants)
        for name in order if number % 2 == 0 else reversed(order):
            with place.copy("orders") as target:
                measured[name].append(contestants[name](target))
            sys.stderr.write(f"{name}: {measured[name][-1]}\n")
    return measured


def fill_goals(measured: dict[str, list[Measured]]) -> Iterator[str]:
    """Yield the goals of the fills, and whether they hold, line by line."""
    speed = _ratio(measured, UPDATE, LOCKSTEP, lambda one: one.seconds)
    flat = _ratio(measured, LOCKSTEP, UNKNOWN, lambda one: one.seconds)
    growth = _median(measured[LOCKSTEP], lambda one: one.growth)
    update_growth = _median(measured[UPDATE], lambda one: one.growth)
    yield from _GOALS
    yield f"| backfill, against one `UPDATE` | ≥ 0.95× its speed | {speed:.2f}× | {_mark(speed >= 0.95)} |"
    grown = f"{growth:.2f}× (one `UPDATE`: {update_growth:.2f}×)"
    yield f"| growth of the table | ≤ 1.3× | {grown} | {_mark(growth <= 1.3)} |"
    if PGROLL in measured:
        pgroll = _ratio(measured, PGROLL, LOCKSTEP, lambda one: one.seconds)
        yield f"| backfill, against pgroll | ≥ 2.5× its speed | {pgroll:.2f}× | {_mark(pgroll >= 2.5)} |"
    else:
        yield "| backfill, against pgroll | ≥ 2.5× its speed | not measured: no `--pgroll` | – |"
    yield f"| never analysed, against analysed | flat | {flat:.2f}× its speed | {_mark(flat >= 0.9)} |"


def load_goals(weather: Weather) -> Iterator[str]:
    """Yield the goals of the migration under load, and whether they hold, line by line."""
    worst = max((timing.milliseconds for timing in weather.during(weather.migration)), default=0.0)
    yield from _GOALS
    yield (
        "| application errors over expand → contract | 0"
        f" | {len(weather.errors)} of {len(weather.timings):,} statements | {_mark(not weather.errors)} |"
    )
    yield (
        f"| values lost after `kill -9` in mid-backfill and resume | 0 | {weather.lost} of {weather.compared:,} rows"
        f" | {_mark(weather.lost == 0)} |"
    )
    yield f"| longest application stall | < 100 ms | {worst:.0f} ms | {_mark(worst < 100)} |"
    lock = longest_for_a_lock([wait for wait in weather.waits if weather.migration.holds(wait.at)])
    yield f"| its longest wait for a lock, sampled | < 100 ms | {lock:.0f} ms | {_mark(lock < 100)} |"
    for error in weather.errors[:5]:
        yield f"| error | | {error} | |"


def fills(measured: dict[str, list[Measured]]) -> Iterator[str]:
    """Yield what every contestant needed, line by line."""
    yield "| who | seconds | rows / s | CPU s | against one `UPDATE`: time, CPU | table | indexes | WAL |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, found in measured.items():
        cpu = [one.cpu_seconds for one in found if one.cpu_seconds is not None]
        update_cpu = statistics.median(one.cpu_seconds or 0.0 for one in measured[UPDATE])
        yield (
            f"| {name} | {_median(found, lambda one: one.seconds):.1f}"
            f" | {_median(found, lambda one: one.rows_per_second):,.0f}"
            f" | {f'{statistics.median(cpu):.1f}' if cpu else '–'}"
            f" | {_ratio(measured, name, UPDATE, lambda one: one.seconds):.2f}×,"
            f" {f'{statistics.median(cpu) / update_cpu:.2f}×' if cpu and update_cpu else '–'}"
            f" | {_median(found, lambda one: one.growth):.2f}×"
            f" | {_median(found, lambda one: one.index_growth):.2f}×"
            f" | {_median(found, lambda one: one.wal_bytes) / 2**20:,.0f} MB |"
        )


def statements(weather: Weather) -> Iterator[str]:
    """Yield what the application noticed, phase by phase, line by line."""
    yield "| the application during | seconds | statements / s | p50 ms | p99 ms | p99.9 ms | worst ms |"
    yield "|---|---|---|---|---|---|---|"
    for span in (weather.calm, weather.migration, *weather.phases):
        found, seconds = weather.during(span), span.end - span.begin
        yield (
            f"| {span.name} | {seconds:.1f} | {len(found) / seconds if seconds else 0:,.0f}"
            f" | {percentile(found, 0.5):.1f} | {percentile(found, 0.99):.1f} | {percentile(found, 0.999):.1f}"
            f" | {max((timing.milliseconds for timing in found), default=0.0):.0f} |"
        )


def stalls(weather: Weather) -> Iterator[str]:
    """Yield what the application waited for in its stalls, before the migration and during it, line by line."""
    yield f"| stalls over {STALL_MS} ms | during | how many | the longest, ms |"
    yield "|---|---|---|---|"
    for span in (weather.calm, weather.migration):
        long = [timing for timing in weather.during(span) if timing.milliseconds > STALL_MS]
        for event, found in reasons(long, weather.waits).items():
            yield f"| {event} | {span.name} | {len(found)} | {found[0]:.0f} |"


def _median(found: Sequence[Measured], what: Callable[[Measured], float]) -> float:
    return statistics.median(what(one) for one in found)


def _ratio(measured: dict[str, list[Measured]], of: str, to: str, what: Callable[[Measured], float]) -> float:
    return _median(measured[of], what) / _median(measured[to], what)


def _mark(holds: bool) -> str:
    return "holds" if holds else "**missed**"


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    main(sys.argv[1:])
