"""Plan, gate results, progress and result as artifacts of the Prefect run: views of the ledger, never more.

Every function does nothing outside a run, and a Prefect server that does not answer never stops a migration.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import cast
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger

from tasks.planning.gates import GateResult

UPDATE_SECONDS = 1.0
"""An update costs 50 ms of the server, and nobody reads faster."""


def key_of(*parts: str) -> str:
    """Return an artifact's key: Prefect admits lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def publish_markdown(kind: str, migration: str, text: str) -> None:
    """Publish a text, e.g. the plan document."""
    _quietly(lambda: create_markdown_artifact(text, key=key_of(kind, migration), description=f"{kind} of {migration}"))


def publish_gate(migration: str, result: GateResult) -> None:
    """Publish a gate's results as a table: counts and keys, no values."""
    verdict = "holds" if result.success and not result.warnings else "warns" if result.success else "fails"
    docs = f"; Data Docs: {result.docs}" if result.docs else ""
    _quietly(
        lambda: create_table_artifact(
            gate_rows(result),
            key=key_of("gate", migration, result.phase, result.gate),
            description=f"The gate {result.gate} of {migration} {verdict}{docs}",
        )
    )


def gate_rows(result: GateResult) -> list[dict[str, str | int]]:
    """Return one row a check, failing ones first."""
    return [
        {
            "check": check.title,
            "severity": check.severity,
            "result": "holds" if check.success else "not evaluated" if check.error else "fails",
            "failing": check.failing,
            "evaluated": check.evaluated,
            "keys": ", ".join(check.sample),
            "observed": ", ".join(f"{name} {value}" for name, value in check.observed.items()),
        }
        for check in sorted(result.checks, key=lambda check: check.success)
    ]


class ProgressBar:
    """One progress artifact, updated at most once a second. ``percent`` is 0 to 100."""

    def __init__(self, migration: str, phase: str) -> None:
        self.key = key_of("progress", migration, phase)
        self.artifact: UUID | None = None
        self.updated = 0.0

    def show(self, percent: float, description: str) -> None:
        finished = percent >= 100
        if not finished and time.monotonic() - self.updated < UPDATE_SECONDS:
            return
        self.updated = time.monotonic()
        _quietly(lambda: self._send(min(percent, 100.0), description))

    def _send(self, percent: float, description: str) -> None:
        if self.artifact is None:
            self.artifact = cast("UUID", create_progress_artifact(percent, key=self.key, description=description))
        else:
            update_progress_artifact(self.artifact, percent, description=description)


def _quietly(publish: Callable[[], object]) -> None:
    if FlowRunContext.get() is None and TaskRunContext.get() is None:
        return
    try:
        publish()
    except Exception as error:  # noqa: BLE001 - whatever the server of the view does, the migration goes on
        get_run_logger().warning("An artifact could not be published: %s", type(error).__name__)


def bullet_list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
