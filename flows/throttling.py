"""Commands that hold a migration back while it works: pause, resume, throttle. They need no Prefect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows import console, known
from tasks.databases import target_of
from tasks.person import present_user
from tasks.throttle import Throttling, change_limits, throttling
from tasks.throttle import pause as pause_migration
from tasks.throttle import resume as resume_migration


def pause(name: str, database: str | None, why: str) -> int:
    """Pause a migration: a runner stops between two batches or steps, and nobody begins it until it is resumed."""
    target = target_of(known.database_of(name, database))
    running = pause_migration(target, name, who=present_user(), why=why)
    now = "Its runner stops within seconds, between two batches or after the step it is at." if running else ""
    out = console.out()
    out.print(f"{name} is paused. {now}".rstrip(), style="bold", markup=False)
    out.print("The triggers keep both shapes in step meanwhile; no lock is held.", markup=False)
    out.print(f"lockstep resume {name} --database {target.name}", markup=False)
    return console.EXIT_DONE


def resume(name: str, database: str | None) -> int:
    """Let a paused migration go on, and say by which command."""
    target = target_of(known.database_of(name, database))
    resume_migration(target, name, who=present_user())
    console.out().print(f"{name} may go on. Next:  lockstep run {name} --database {target.name}", markup=False)
    return console.EXIT_DONE


def throttle(name: str, database: str | None, changes: Mapping[str, Any], form: str) -> int:
    """Print the limits, and what was last seen of the server; change those that are given."""
    target = target_of(known.database_of(name, database))
    found = change_limits(target, name, changes, who=present_user()) if changes else throttling(target, name)
    if form == "json":
        console.print_json(throttle_document(found))
    else:
        _print(found)
    return console.EXIT_DONE


def throttle_document(found: Throttling) -> dict[str, Any]:
    """Return the throttle of a migration for programs: limits as they are written, null for off."""
    record = found.record
    return {
        "migration": found.migration.name,
        "paused": record.pause,
        "limits": found.limits.model_dump(mode="json"),
        "changed": list(found.by_hand),
        "throttled": list(record.reasons),
        "since": record.since,
        "looked_at": record.looked_at,
        "load": record.load.model_dump(mode="json") if record.load is not None else None,
    }


def _print(found: Throttling) -> None:
    from rich.table import Table

    out, record = console.out(), found.record
    table = Table("Limit", "Value", "")
    for name, value in found.limits.model_dump(mode="json").items():
        shown = ", ".join(value) or "none" if isinstance(value, list) else "off" if value is None else str(value)
        table.add_row(f"--{name.replace('_', '-')}", shown, "changed by hand" if name in found.by_hand else "")
    out.print(table)
    if record.pause is not None:
        out.print(f"{found.migration.name} is {record.pause}.", markup=False)
    if record.load is None or record.looked_at is None:
        out.print("The server has not been looked at yet: that begins with the first long step.", markup=False)
        return
    out.print(f"Seen at {record.looked_at:%Y-%m-%d %H:%M:%S %Z}:", markup=False)
    for line in (*record.load.lines(found.limits), *(f"exceeded: {reason}" for reason in found.exceeded)):
        out.print(f"  {line}", markup=False)
