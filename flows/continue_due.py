"""The scheduled flow: carry on what is approved, has soaked, is in its window, or was left by a dead worker."""

from __future__ import annotations

from prefect import flow

from flows.expand_contract import expand_contract
from tasks.due import due_migrations
from tasks.narration import say


@flow(name="continue", persist_result=False, retries=0)
def continue_due(database: str) -> tuple[str, ...]:
    """Carry on every migration of a database that may go on now, and return their names.

    One that fails does not keep the others from going on; the last failure is this run's.
    """
    names = due_migrations(database)
    failed: Exception | None = None
    for name in names:
        say(f"{name} may go on.")
        try:
            expand_contract(name, database)
        except Exception as error:  # noqa: BLE001  whatever it is, it is raised when the others had their turn
            failed = error
    if failed is not None:
        raise failed
    return names
