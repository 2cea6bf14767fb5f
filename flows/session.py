"""A run from the command line: Prefect's environment, an optional local server with UI, a log, quiet warnings."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator

from flows import console
from flows.logbook import kept_log
from tasks import prefect_server


@contextlib.contextmanager
def local_session(*, ui: bool, verbose: bool) -> Iterator[None]:
    """Prepare this process for flows, before Prefect is imported; with ``ui`` a local server runs meanwhile."""
    if verbose:
        prefect_server.prepare_verbose()
    with shown_in_browser() if ui else contextlib.nullcontext():
        # Prefect sets up logging when it is imported, and would remove a handler that was there before.
        import prefect.main  # noqa: F401

        if "PREFECT_API_URL" not in os.environ:
            console.err().print("Prefect starts for this run: about fifteen seconds (`lockstep up` keeps it running).")
        with kept_log(), warnings.catch_warnings():
            # What Prefect's own dependencies deprecate is no news for somebody who migrates a database.
            warnings.filterwarnings("ignore", module=r"(prefect|pydantic|websockets|docket)(\.|$)")
            yield


@contextlib.contextmanager
def shown_in_browser() -> Iterator[None]:
    """Have a local Prefect server for a block, and leave it up afterwards until somebody has looked."""
    with prefect_server.serving(prefect_server.port_for_ui()) as server:
        console.err().print(f"Prefect UI: {server.ui}", style="bold")
        try:
            yield
        finally:
            if console.interactive():
                console.wait_for_enter(f"The Prefect UI stays at {server.ui} until you press Enter.")
