"""Tasks one after the other: the arrows between them in Prefect's timeline."""

from __future__ import annotations

from typing import Any, ParamSpec, TypeVar

from prefect import State, Task

P = ParamSpec("P")
R = TypeVar("R")


class Chain:
    """Calls tasks as they are called anyway, each marked as the successor of the one before it.

    ``first`` is what the task before the first one returned: Prefect knows which task a returned object is from.
    """

    def __init__(self, first: object) -> None:
        self._before: Any = first

    def __call__(self, task: Task[P, R], *arguments: P.args, **options: P.kwargs) -> R:
        """Run a task and return its result, or raise what it raised."""
        state: State[R] = task(*arguments, **options, wait_for=[self._before], return_state=True)
        self._before = state
        return state.result()
