"""The randomised campaign: ``python -m tests.campaign --runs 500 --seed 1 --jobs 2``.

Every run is a seed of its own, printed with what it did; ``--runs 1 --seed N`` plays one again. A Markdown summary ends
it. Exit code 1 when a statement of the application failed, a row differs, or a run did not end.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context

from tasks.database.clone import scratch_server
from tasks.database.connection import Target
from tests.campaign.operations import OPERATIONS
from tests.campaign.run import Report, one_run
from tests.conftest import temporary_server


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="of the first run; printed")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument(
        "--kind", choices=sorted(OPERATIONS), help="have this kind of change in every run that allows it"
    )
    chosen = parser.parse_args(arguments)
    seeds = range(chosen.seed, chosen.seed + chosen.runs)
    began = time.monotonic()
    reports = []
    with temporary_server() as server, scratch_server(server.major):
        place = Target("campaign", server.url("postgres"))
        with ProcessPoolExecutor(chosen.jobs, mp_context=get_context("spawn")) as pool:
            for report in pool.map(one_run, [place] * chosen.runs, seeds, [chosen.kind] * chosen.runs):
                reports.append(report)
                print(line(report), flush=True)  # noqa: T201
    print(summary(reports, time.monotonic() - began, f"{server.major}"))  # noqa: T201
    return 1 if any(report.fault for report in reports) else 0


def line(report: Report) -> str:
    """Return one run on one line; a fault on the lines behind it."""
    disturbed = ", ".join(f"{count} × {what}" for what, count in sorted(report.disturbed.items())) or "undisturbed"
    kinds = " + ".join(report.kinds)
    head = f"seed {report.seed}: {kinds}: {report.outcome or 'unfinished'} ({disturbed}; {report.rows} rows, "
    head += f"{report.statements} statements, {report.seconds:.0f} s)"
    return head if not report.fault else f"{head}\n  FAULT: {report.fault}"


def summary(reports: Sequence[Report], seconds: float, version: str) -> str:
    """Return the Markdown table of a campaign."""
    done = [report for report in reports if not report.outcome.startswith("refused")]
    kinds = Counter(kind for report in done for kind in report.kinds)
    disturbed = Counter[str]()
    for report in done:
        disturbed.update(report.disturbed)
    lines = [
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, PostgreSQL {version}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, {seconds / 60:.0f} minutes",
        "",
        "| what | number |",
        "|---|---|",
        f"| runs | {len(reports)}, seeds {reports[0].seed} to {reports[-1].seed} |",
        f"| completed | {_count(done, 'completed')} |",
        f"| rolled back | {_count(done, 'rolled back')} |",
        f"| refused at planning, by name | {len(reports) - len(done)} |",
        f"| disturbed by | {_told(disturbed)} |",
        f"| statements of the application | {sum(report.statements for report in done):,}, "
        f"of them in the new shape {sum(report.in_new_shape for report in done):,} |",
        f"| runs with a failed statement, a different row or catalog, or no end | "
        f"{sum(bool(report.fault) for report in reports)} |",
        f"| kinds of change | {_told(kinds)} |",
    ]
    refused = Counter(report.outcome for report in reports if report.outcome.startswith("refused"))
    lines += [f"| {reason[:150]} | {count} |" for reason, count in refused.most_common(8)]
    return "\n".join(lines)


def _count(reports: Iterable[Report], outcome: str) -> int:
    return sum(report.outcome.startswith(outcome) and not report.fault for report in reports)


def _told(counted: Counter[str]) -> str:
    return ", ".join(f"{what} {count}" for what, count in counted.most_common()) or "nothing"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
