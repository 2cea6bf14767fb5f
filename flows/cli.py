"""The command line. Every import that costs time is made inside the command that needs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn, Optional

import typer

from flows import console

# `Optional` and not `| None`: typer evaluates these at import and older releases do not read unions with None.
Database = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--database", metavar="NAME", help="Its name: LOCKSTEP_<NAME>_URL or Secret block lockstep-<name>."),
]
Migration = Annotated[str, typer.Argument(metavar="MIGRATION", help="A spec (YAML), a .sql file, or a planned NAME.")]
Spec = Annotated[str, typer.Argument(metavar="SPEC", help="A spec (YAML), or a .sql file.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The migration's name.")]
TextFormat = Annotated[Literal["text", "json"], typer.Option("--format", help="json: one document on stdout.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show Prefect's own log lines too.")]
UI = Annotated[bool, typer.Option("--ui", help="Start a local Prefect server and print its address.")]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason, kept in the ledger.")]

app = typer.Typer(
    name="lockstep",
    help="Zero-downtime PostgreSQL migrations: planned, gated, resumable, and with a way back.\n\n"
    "Exit codes: 0 done, 1 failed and safe, 2 usage or bad spec, 3 waiting (prints the next command).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def before_any_command() -> None:
    """Prepare the environment before anything imports Prefect."""
    from tasks.prefect_server import prepare

    prepare()


@app.command()
def demo(
    strategy: Annotated[
        Literal["expand-contract"], typer.Option("--strategy", help="How the migration is carried out.")
    ] = "expand-contract",
    rows: Annotated[int, typer.Option("--rows", min=100, metavar="N", help="Intakes to migrate.")] = 200_000,
    postgres: Annotated[Literal["16", "18"], typer.Option("--postgres", help="Version of the embedded server.")] = "16",
    ui: UI = False,
) -> None:
    """Migrate the drink-water database under a writing application; approves by itself, and says so."""
    from flows import demo as demonstration

    if not ui:
        finish(demonstration.run(strategy=strategy, rows=rows, major=int(postgres)))
    from flows.session import shown_in_browser

    with shown_in_browser():
        finish(demonstration.run(strategy=strategy, rows=rows, major=int(postgres)))


@app.command()
def plan(
    spec: Spec,
    database: Database = None,
    out: Annotated[Optional[Path], typer.Option("--out", metavar="DIR", help="Write it and psql scripts.")] = None,  # noqa: UP045
    format: Annotated[Literal["md", "json"], typer.Option("--format", help="json: one document on stdout.")] = "md",  # noqa: A002
    rehearse: Annotated[
        bool,
        typer.Option("--rehearse", help="Carry it out on a clone with made-up rows first."),
    ] = False,
    rows: Annotated[
        int, typer.Option("--rows", min=1_000, max=5_000_000, help="Made-up rows in the largest table of a rehearsal.")
    ] = 100_000,
) -> None:
    """Show how a migration would be carried out. Nothing in the database changes."""
    from flows import plan as planning

    finish(planning.show(spec, database, out, format, rows if rehearse else None))


@app.command()
def lint(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE…", help="Files of SQL, or folders of them, in the order in which they run."),
    ],
    schema: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--schema", metavar="SCHEMA.sql", help="The schema that they meet, e.g. from pg_dump -s."),
    ] = None,
    database: Database = None,
    format: TextFormat = "text",  # noqa: A002
) -> None:
    """Say what SQL would do to the running application, and the safe way. It is run on a copy of the schema only.

    Without --schema and --database it is told by rules from the statements alone, which know less.

    Exit codes: 0 nothing dangerous, 1 something dangerous that no comment allows, 2 a file that cannot be run.
    """
    if schema is not None and database is not None:
        raise typer.BadParameter("either --schema SCHEMA.sql, or --database NAME: the schema that the SQL meets")
    from flows import lint as linting

    finish(linting.lint(files, schema, database, format))


@app.command()
def run(
    migration: Migration,
    database: Database = None,
    until: Annotated[Optional[str], typer.Option("--until", metavar="PHASE", help="Stop after this phase.")] = None,  # noqa: UP045
    yes: Annotated[bool, typer.Option("--yes", help="Give every approval by itself; recorded as such.")] = False,
    waive_soak: Annotated[bool, typer.Option("--waive-soak", help="With --yes: do not wait for the soak.")] = False,
    ignore_window: Annotated[
        bool, typer.Option("--ignore-window", help="Work outside of the maintenance window too; recorded as such.")
    ] = False,
    ui: UI = False,
    verbose: Verbose = False,
    format: TextFormat = "text",  # noqa: A002
) -> None:
    """Carry a migration on: as far as it goes, from where it is."""
    if waive_soak and not yes:
        raise typer.BadParameter("only together with --yes; otherwise: lockstep approve NAME --waive-soak --why …")
    from flows import beforehand
    from flows.session import local_session

    database = beforehand.checked_run(migration, database, until)
    with local_session(ui=ui, verbose=verbose):
        from flows import running

        asked = running.Asked(until=until, yes=yes, waive_soak=waive_soak, ignore_window=ignore_window)
        finish(running.run(migration, database, asked, json=format == "json"))


@app.command()
def status(
    name: Annotated[Optional[str], typer.Argument(metavar="[NAME]", help="One migration; all without it.")] = None,  # noqa: UP045
    database: Database = None,
    format: TextFormat = "text",  # noqa: A002
) -> None:
    """Where is it, is the data safe, what is next, how to go back."""
    from flows import views

    finish(views.status(name, database, format))


@app.command()
def approve(
    name: Name,
    why: Why = "",
    waive_soak: Annotated[
        bool, typer.Option("--waive-soak", help="Do not wait for the end of the soak; needs --why.")
    ] = False,
    database: Database = None,
) -> None:
    """Approve what a migration waits for."""
    if waive_soak and not why:
        raise typer.BadParameter("--waive-soak needs --why: the reason is kept in the ledger")
    from flows import running

    finish(running.approve(name, database, why=why, waive_soak=waive_soak))


@app.command()
def pause(name: Name, why: Why = "", database: Database = None) -> None:
    """Stop a migration between two batches or steps, and let nobody begin it until `lockstep resume`."""
    from flows import throttling

    finish(throttling.pause(name, database, why))


@app.command()
def resume(name: Name, database: Database = None) -> None:
    """Let a paused migration go on; says by which command."""
    from flows import throttling

    finish(throttling.resume(name, database))


@app.command()
def throttle(
    name: Name,
    replication_lag: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--replication-lag", metavar="TIME", help="How far a standby may be behind: 10s, or off."),
    ] = None,
    replication_bytes: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--replication-bytes", metavar="SIZE", help="The same in WAL: 256MB, or off."),
    ] = None,
    slot_lag: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--slot-lag", metavar="SIZE", help="WAL that a replication slot may hold back: 16GB, or off."),
    ] = None,
    lock_waiters: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--lock-waiters", metavar="N", help="Sessions that may be waiting for a lock: 10, or off."),
    ] = None,
    active_sessions: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--active-sessions", metavar="N", help="Sessions that may be active: 50, or off."),
    ] = None,
    wal_rate: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--wal-rate", metavar="SIZE/s", help="WAL that the whole server may write: 50MB/s, or off."),
    ] = None,
    rows_per_second: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--rows-per-second", metavar="N", help="Rows that are filled a second: 5000, or off."),
    ] = None,
    dead_rows: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--dead-rows", metavar="PERCENT", help="Dead rows, of the table, that VACUUM leaves: 30%, or off."
        ),
    ] = None,
    ignore: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--ignore", metavar="NAME", help="Standbys and slots that do not count: these and no others."),
    ] = None,
    sql: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--sql", metavar="SELECT", help="Your own questions, all to be true: these and no others."),
    ] = None,
    no_ignore: Annotated[bool, typer.Option("--no-ignore", help="Every standby and slot counts.")] = False,
    no_sql: Annotated[bool, typer.Option("--no-sql", help="No question of your own.")] = False,
    database: Database = None,
    format: TextFormat = "text",  # noqa: A002
) -> None:
    """Show the limits under which a migration works, and what is seen of the server; change those that are given."""
    from flows import throttling

    given = {
        "replication_lag": replication_lag,
        "replication_bytes": replication_bytes,
        "slot_lag": slot_lag,
        "lock_waiters": lock_waiters,
        "active_sessions": active_sessions,
        "wal_rate": wal_rate,
        "rows_per_second": rows_per_second,
        "dead_rows": dead_rows,
        "ignore": [] if no_ignore else ignore or None,
        "sql": [] if no_sql else sql or None,
    }
    changes = {field: value for field, value in given.items() if value is not None}
    finish(throttling.throttle(name, database, changes, format))


@app.command()
def rollback(
    name: Name,
    to: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--to", metavar="PHASE", help="Undo only what came after this phase."),
    ] = None,
    old_version_deployed: Annotated[
        bool, typer.Option("--old-version-deployed", help="After the switch: your word that the old version runs.")
    ] = False,
    database: Database = None,
    ui: UI = False,
    verbose: Verbose = False,
) -> None:
    """Go back to the old shape, as far as that is possible."""
    from flows import beforehand
    from flows.session import local_session

    database = beforehand.checked_name(name, database)
    with local_session(ui=ui, verbose=verbose):
        from flows import running

        finish(running.go_back(name, database, to=to, old_version_deployed=old_version_deployed))


@app.command()
def verify(name: Name, database: Database = None, format: TextFormat = "text") -> None:  # noqa: A002
    """Run the migration's equality gate now and print what it finds; changes nothing."""
    from flows import verdicts

    finish(verdicts.verify(name, database, format))


@app.command()
def cleanup(name: Name, database: Database = None) -> None:
    """Remove what a finished or rolled-back migration kept in the ledger; a summary stays."""
    from flows import running

    finish(running.cleanup(name, database))


@app.command()
def schema() -> None:
    """Print the JSON Schema of specs, for editors."""
    from tasks.planning.spec import json_schema

    sys.stdout.write(json_schema() + "\n")


@app.command()
def doctor(database: Database = None, format: TextFormat = "text") -> None:  # noqa: A002
    """Check installation, connection, versions, privileges and settings; print what to fix."""
    from flows import verdicts

    finish(verdicts.doctor(database, format))


@app.command()
def up(
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the Prefect server.")] = 4200,
) -> None:
    """Start a local Prefect server with UI, a worker and the deployments of prefect.yaml; Ctrl-C ends it."""
    from flows import serving

    finish(serving.serve(port))


def finish(code: int) -> NoReturn:
    """Leave a command with an exit code of the contract: 0, 1, 2 or 3."""
    raise typer.Exit(code)


def run_cli(arguments: Sequence[str]) -> int:
    """Run one command line in this process and return its exit code."""

    def command() -> int:
        try:
            app(list(arguments), prog_name="lockstep")
        except SystemExit as leaving:
            return leaving.code if isinstance(leaving.code, int) else console.EXIT_DONE
        return console.EXIT_DONE

    return console.guarded(command)


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run_cli(sys.argv[1:]))
