"""From Great Expectations' results to a gate's: fails closed, and lets nothing of a row through.

Great Expectations succeeds when a suite is empty or names an expectation it does not know, and reports an SQL error
as a plain failure. So every check that the gate names must have exactly one result here, or it has failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.planning.gates import CheckResult
from tasks.planning.plan import Severity

if TYPE_CHECKING:
    # Importing it takes seconds, and only its types are needed.
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult

META_KEY = "lockstep_check"
"""In the ``meta`` of every expectation: the id of the check that it stands for."""

FOUND_KEY = "lockstep_found"
"""In the result of Lockstep's own expectation: what the check's statement returned."""

COUNTS = ("element_count", "missing_count", "unexpected_count", "unexpected_percent")
"""What a result of Great Expectations' own may keep: everything else may be a value of a row."""


@dataclass(frozen=True)
class Demand:
    """A check that must have a result. ``corruption`` as in `tasks.planning.plan.Check`."""

    id: str
    title: str
    severity: Severity
    corruption: bool = False

    def unevaluated(self, error: str) -> CheckResult:
        """Return the failure of a check that nobody could evaluate: bad news, but not known corruption."""
        return CheckResult(
            check=self.id,
            title=self.title,
            severity=self.severity,
            success=False,
            failing=0,
            evaluated=0,
            error=error,
        )


def judge(
    demands: Sequence[Demand], results: Iterable[ExpectationValidationResult]
) -> tuple[tuple[CheckResult, ...], bool]:
    """Return one result for every demand, in their order, and whether the connection was lost on the way."""
    found: dict[str, list[ExpectationValidationResult]] = {}
    for result in results:
        meta = (result.expectation_config.meta if result.expectation_config is not None else None) or {}
        found.setdefault(str(meta.get(META_KEY)), []).append(result)
    judged = []
    lost = False
    for demand in demands:
        mine = found.get(demand.id, [])
        if len(mine) != 1:
            judged.append(demand.unevaluated("no result" if not mine else f"{len(mine)} results for one check"))
            continue
        content = mine[0].result or {}
        lost = lost or bool((content.get(FOUND_KEY) or {}).get("lost"))
        judged.append(_judge(demand, mine[0], content))
    return tuple(judged), lost


def strip(suite_result: ExpectationSuiteValidationResult) -> None:
    """Leave only counts and keys in a suite's results, and of an error only what kind it is."""
    for result in suite_result.results:
        content = result.result or {}
        found = content.get(FOUND_KEY)
        error = _raised(result)
        result.result = {name: content[name] for name in COUNTS if name in content}
        if found is not None:
            result.result["observed_value"] = _shown(found)
        elif error is not None:
            result.result["observed_value"] = error
        result.exception_info = {"raised_exception": False, "exception_traceback": None, "exception_message": None}


def _judge(demand: Demand, result: ExpectationValidationResult, content: dict[str, Any]) -> CheckResult:
    error = _raised(result)
    if error is not None:
        return demand.unevaluated(error)
    found = content.get(FOUND_KEY)
    if found is None:
        return _of_the_users(demand, bool(result.success), content)
    if "error" in found:
        return demand.unevaluated(found["error"])
    failing = found["failing"]
    success = failing == 0 and bool(result.success)
    return CheckResult(
        check=demand.id,
        title=demand.title,
        severity=demand.severity,
        success=success,
        failing=failing,
        evaluated=found["evaluated"],
        sample=tuple(found["sample"]),
        observed=found["observed"],
        error=None if success or failing else "the result contradicts itself",
        corruption=demand.corruption and failing > 0,
    )


def _of_the_users(demand: Demand, success: bool, content: dict[str, Any]) -> CheckResult:
    """Return the result of an expectation of Great Expectations' own. One without counts is one unit."""
    evaluated = int(content.get("element_count") or 0) or 1
    failing = int(content.get("unexpected_count") or 0)
    return CheckResult(
        check=demand.id,
        title=demand.title,
        severity=demand.severity,
        success=success,
        # With `mostly` some may fail and the expectation hold; without counts one failure stands for all.
        failing=failing if success or failing else 1,
        evaluated=evaluated,
        observed={name: str(content[name]) for name in COUNTS if content.get(name) is not None},
    )


def _raised(result: ExpectationValidationResult) -> str | None:
    """Return the kind of exception that a result reports, if any: the message may quote a value."""
    info = result.exception_info or {}
    # Either one report, or one for every metric that failed.
    reports = [info] if "raised_exception" in info else [item for item in info.values() if isinstance(item, dict)]
    raised = [report for report in reports if report.get("raised_exception")]
    if not raised:
        return None
    return _kind(str(raised[0].get("exception_message")))


def _kind(message: str) -> str:
    """Return ``22012 DivisionByZero`` of a message of the gate's cursor, else that it was something else."""
    opening, closing = message.find("(psycopg.errors."), message.find(")")
    if opening == -1 or closing < opening:
        return "Great Expectations raised an exception"
    name = message[opening + len("(psycopg.errors.") : closing]
    state = message[closing + 1 :].split(maxsplit=1)
    return f"{state[0]} {name}" if state and len(state[0]) == 5 and state[0].isalnum() else name


def _shown(found: dict[str, Any]) -> str:
    if "error" in found:
        return f"could not be evaluated ({found['error']})"
    numbers = "; ".join(f"{name}: {value}" for name, value in found["observed"].items())
    keys = f"; keys {', '.join(found['sample'])}" if found["sample"] else ""
    return f"{found['failing']:,} of {found['evaluated']:,} fail{keys}{'; ' if numbers else ''}{numbers}"
