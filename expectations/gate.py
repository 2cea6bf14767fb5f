"""Running a gate: its checks and the user's suites through Great Expectations, with a result that fails closed.

Great Expectations takes seconds to import and keeps the current context in a global: it is imported when the first
gate runs, and gates of one process run one after the other.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from expectations.judgement import Demand, judge, strip
from expectations.session import open_session
from expectations.user_suites import UserSuite, find_suite, load_suite
from tasks.database.connection import Target
from tasks.planning.errors import CannotConnect, SpecError
from tasks.planning.gates import CheckResult, GateResult
from tasks.planning.names import TableName
from tasks.planning.plan import Gate, Severity

_LOG = logging.getLogger(__name__)
_ONE_AT_A_TIME = threading.Lock()

_SEVERITIES: dict[str, Severity] = {"critical": "CRITICAL", "warning": "WARNING", "info": "INFO"}


def run_gate(
    gate: Gate,
    *,
    phase: str,
    target: Target,
    settings: Sequence[tuple[str, str]],
    docs: Path,
    suites_root: Path | None,
) -> GateResult:
    """Evaluate every check of the gate and every suite of the user's that it names.

    Each check is one statement in a read-only session with ``settings``. A check that could not be evaluated, and a
    gate without checks, has failed. The Data Docs of this run get a folder of their own in ``docs``.

    Raises CannotConnect when the server does not answer or the connection is lost: the gate says nothing then, and
    may be run again.
    """
    started = datetime.now(UTC)
    folder = docs / f"{gate.name}-{started:%Y%m%dT%H%M%S%f}"
    # Connecting outside of Great Expectations, so that a failure to is told as one.
    open_session(target, settings).close()
    with _ONE_AT_A_TIME, _great_expectations():
        checks, page = _Run(gate, phase, target, tuple(settings), folder, suites_root, started).evaluate()
    if not checks:
        checks = (Demand("empty", "The gate names no check", "CRITICAL").unevaluated("nothing to evaluate"),)
    return GateResult(
        gate=gate.name,
        phase=phase,
        started_at=started,
        finished_at=datetime.now(UTC),
        checks=checks,
        docs=str(page) if page is not None else None,
    )


@contextmanager
def _great_expectations() -> Iterator[None]:
    """Import Great Expectations, and keep its deprecations and its log to itself while it works."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"great_expectations\..*")
        from expectations.context import quiet

        with quiet():
            yield


@dataclass(frozen=True)
class _Run:
    """One evaluation of one gate. Its methods import Great Expectations."""

    gate: Gate
    phase: str
    target: Target
    settings: tuple[tuple[str, str], ...]
    folder: Path
    suites_root: Path | None
    started: datetime

    def evaluate(self) -> tuple[tuple[CheckResult, ...], Path | None]:
        from expectations.context import data_source, new_context, write_docs

        context = new_context(self.folder)
        with data_source(context, lambda: open_session(self.target, self.settings)) as source:
            checks = [*self._own(context, source)]
            for name in self.gate.user_suites:
                checks += self._users(context, source, name)
        try:
            page = write_docs(context, self.folder, strip)
        except Exception as error:  # noqa: BLE001  the verdict stands, whatever happens to its pages
            _LOG.warning("The Data Docs of the gate %s could not be written: %s.", self.gate.name, type(error).__name__)
            return tuple(checks), None
        return tuple(checks), page

    def _own(self, context: Any, source: Any) -> tuple[CheckResult, ...]:
        from expectations.context import all_checks
        from expectations.suite import gate_suite

        demands = [Demand(check.id, check.title, check.severity, check.corruption) for check in self.gate.checks]
        if not demands:
            return ()
        return self._judged(context, lambda: all_checks(source), gate_suite(self.gate), demands)

    def _users(self, context: Any, source: Any, name: str) -> tuple[CheckResult, ...]:
        from expectations.context import whole_table
        from expectations.suite import user_suite

        missing = Demand(f"suite:{name}", f"The suite {name}", "CRITICAL")
        try:
            path = find_suite(name, self.suites_root)
            suite = load_suite(path)
            if not suite.applies(self.gate.name):
                return ()
            built = user_suite(suite, path)
        except SpecError as error:
            return (missing.unevaluated(" ".join(part for part in (error.what, error.remedy) if part)),)
        demands = [
            Demand(suite.entry_id(number), suite.entry_title(number), _SEVERITIES[entry.severity])
            for number, entry in enumerate(suite.expectations, 1)
        ]
        return self._judged(context, lambda: whole_table(source, _table(suite), suite.name), built, demands)

    def _judged(
        self, context: Any, batch: Callable[[], Any], suite: Any, demands: list[Demand]
    ) -> tuple[CheckResult, ...]:
        from great_expectations.core.run_identifier import RunIdentifier

        from expectations.context import validate

        run = RunIdentifier(run_name=self.phase, run_time=self.started)
        try:
            results, lost = judge(demands, validate(context, batch(), suite, run).results)
        except Exception as error:  # noqa: BLE001  whatever it raises, the gate has failed and says so
            if _is_lost(error):
                raise self._connection_lost() from None
            return tuple(demand.unevaluated(type(error).__name__) for demand in demands)
        if lost:
            raise self._connection_lost()
        return results

    def _connection_lost(self) -> CannotConnect:
        return CannotConnect(
            f"The connection to the database {self.target.name!r} was lost during the gate {self.gate.name}.",
            remedy="Run it again: a gate only reads.",
        )


def _is_lost(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, CannotConnect):
            return True
        error = error.__cause__ or error.__context__
    return False


def _table(suite: UserSuite) -> TableName:
    schema, dot, name = suite.table.rpartition(".")
    return TableName(schema if dot else "public", name)
