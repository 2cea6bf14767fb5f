"""Where a database name leads: the environment, or a Secret block of Prefect."""

from __future__ import annotations

import os
import sys
from typing import Any, cast

from tasks.database.connection import Target, resolve


def target_of(name: str) -> Target:
    """Return the database of this name. Raises UnknownDatabase."""
    return resolve(name, secret)


def secret(name: str) -> str | None:
    """Return the URL kept in the Secret block ``lockstep-<name>``, None when there is none.

    Asks the server of PREFECT_API_URL, or the one that the present run has started; to start one only for this
    question would take fifteen seconds.
    """
    if "PREFECT_API_URL" not in os.environ and not _in_a_run():
        return None
    from prefect.blocks.system import Secret

    try:
        block = cast("Secret[Any]", Secret.load(f"lockstep-{name.lower().replace('_', '-')}"))
    except ValueError:
        return None
    return str(block.get())


def _in_a_run() -> bool:
    if "prefect" not in sys.modules:
        return False
    from prefect.context import FlowRunContext, TaskRunContext

    return FlowRunContext.get() is not None or TaskRunContext.get() is not None
