"""A real ``kill -9`` at a chosen place, for tests and drills: it shows that a run can be resumed from anywhere.

``LOCKSTEP_CRASH_AT`` is ``before:<step>``, ``after:<step>``, ``during:<step>:<pages>``,
``during-undo:<step>:<batches>``,
``before-undo:<step>`` or ``after-undo:<step>``; without it nothing happens.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "LOCKSTEP_CRASH_AT"


def crash_point(*place: str) -> None:
    """Kill this process, without any clean-up, if this is the place that the environment names."""
    if os.environ.get(VARIABLE) == ":".join(place):
        os.kill(os.getpid(), signal.SIGKILL)
