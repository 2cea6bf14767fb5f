"""A maintenance window that a run does not obey: said, and kept in the ledger with the name of who wants it."""

from __future__ import annotations

from tasks.approval import present_user
from tasks.database.connection import connect
from tasks.database.ledger import Ledger
from tasks.databases import target_of
from tasks.narration import say


def ignore_window(migration: str, database: str, who: str | None) -> None:
    """Record that a run works at any time, in the present user's name unless one is given; nothing without a window."""
    who = who or present_user()
    with connect(target_of(database), role="window") as connection:
        ledger = Ledger(connection)
        window = ledger.known_migration(migration).plan.window
        if window is None:
            return
        ledger.event(migration, "window_ignored", {"who": who, "window": str(window)})
    say(f"The maintenance window ({window}) is ignored in this run, by {who}.")
