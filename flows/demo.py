"""`lockstep demo`: the drink-water database changes its shape under an application that reads and writes throughout.

Back once from the middle, killed once and resumed, and on to the end. The commands are those of a user, and the
application's own record decides at the end.
"""

from __future__ import annotations

import contextlib
import os
import time

from flows import console
from tasks import prefect_server
from tasks.application.application import Application
from tasks.application.client import Pace
from tasks.application.closing import closing_lines
from tasks.application.stage import MIGRATION, Stage, stage
from tasks.application.terminal import KILLED
from tasks.planning.checks.sync import RECONNECT_SECONDS
from tasks.planning.errors import MigrationError, UsageError

STRATEGY = "expand-contract"
CLIENTS = 4
THINKING = 0.04
"""Seconds between two operations of a client: eight clients leave two cores room for the migration."""
LINGER = 1.0
"""Seconds for which the application goes on in a state before the next command changes it."""


def run(*, strategy: str, rows: int, major: int) -> int:
    """Play the demo with so many intakes and return the exit code: 0 only if everything was equal."""
    if strategy != STRATEGY:
        raise UsageError(f"The strategy {strategy} is not built yet.", remedy=f"There is: --strategy {STRATEGY}")
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        say(f"A drink-water database with {rows:,} intakes is loaded into the embedded PostgreSQL {major}.")
        play = stack.enter_context(stage(rows=rows, major=major, say=say))
        if "PREFECT_API_URL" not in os.environ:
            # One server for all the commands below: each would start and stop its own otherwise.
            stack.enter_context(prefect_server.serving(prefect_server.free_port()))
        play.terminal.warm_up()
        play.loaded()
        application = stack.enter_context(Application(play.target.conninfo, pace=Pace(pause=THINKING)))
        heading(f"{CLIENTS} clients of the old application version start; they never stop writing")
        application.set_shapes(old=CLIENTS, new=0)
        there_and_back(play, application)
        killed_and_resumed(play, rows)
        switched(play, application)
        contracted(play, application)
        application.set_shapes(old=0, new=0)
        heading(f"Report, after {time.monotonic() - began:.0f} s")
        return judged(play, application)


def there_and_back(play: Stage, application: Application) -> None:
    """Carry the migration up to the backfill, and roll it back."""
    heading("1. There and back: expand and backfill, then a rollback")
    before = play.schema()
    say("The spec's maintenance window is at the weekend. The demo does not wait for it: --ignore-window.")
    play.run("--until", "backfill")
    play.lockstep("rollback", MIGRATION, "--database", play.target.name)
    comparison = application.compare()
    if not comparison.equal or play.schema() != before:
        raise MigrationError(f"The rollback left {len(comparison.discrepancies)} differences.")
    say(f"Rolled back: the schema is as before, all {comparison.intakes:,} intakes are as the application knows them.")


def killed_and_resumed(play: Stage, rows: int) -> None:
    """Carry the migration up to the switch; the first runner is killed in mid-backfill."""
    heading("2. Again, and kill -9 in the middle of the backfill")
    play.terminal.warm_up()
    pages = max(1, rows // 24_000)  # in the middle of the table, with pages as large as they usually become
    play.run(code=KILLED, crash_at=f"during:{play.backfill_step()}:{pages}")
    done, total = play.filled()
    say(f"Killed with {done:,} of {total:,} rows done. The application notices nothing; the same command goes on:")
    play.run(code=console.EXIT_WAITING)


def switched(play: Stage, application: Application) -> None:
    """Approve the switch, and deploy the new application version beside the old one."""
    heading("3. The switch. It needs a person's approval; the demo approves by itself")
    play.lockstep("approve", MIGRATION, "--database", play.target.name, "--why", "the demo approves by itself")
    play.run(code=console.EXIT_WAITING)
    say(f"{CLIENTS} clients of the new version start beside the old ones, on the same rows.")
    application.set_shapes(old=CLIENTS, new=CLIENTS)
    time.sleep(3 * LINGER)
    comparison = application.compare()
    if not comparison.equal:
        raise MigrationError(f"{len(comparison.discrepancies)} rows differ between the shapes and the record.")
    say(f"All {comparison.intakes:,} intakes are as written, seen through either shape.")


def contracted(play: Stage, application: Application) -> None:
    """Stop the old version, approve contract without the soak, and finish."""
    heading("4. The old version stops. Contract is approved, its soak of seven days waived: this is a demo")
    application.set_shapes(old=0, new=CLIENTS)
    time.sleep(RECONNECT_SECONDS + LINGER)  # the gate counts a session that ended just now as one that may come back
    why = "the demo approves by itself and does not wait for seven days"
    play.lockstep("approve", MIGRATION, "--database", play.target.name, "--waive-soak", "--why", why)
    play.run()
    time.sleep(LINGER)


def judged(play: Stage, application: Application) -> int:
    """Compare every row with the application's record, and print the report."""
    report, comparison = application.report(), application.compare()
    for line in closing_lines(play, report, comparison):
        say(line)
    equal = comparison.equal and not report.errors and not report.discrepancies
    say("Everything is equal." if equal else "NOT EVERYTHING IS EQUAL: see above.")
    return console.EXIT_DONE if equal else console.EXIT_FAILED


def heading(text: str) -> None:
    say(f"\n{text}")


def say(text: str) -> None:
    console.out().print(text, markup=False)
