"""Who gives a command. Needs no Prefect."""

from __future__ import annotations

import getpass
import socket


def present_user() -> str:
    """Return who sits at this machine, as ``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
