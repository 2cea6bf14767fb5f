"""Suite factories: what a gate names, as Great Expectations' suites. Imports Great Expectations.

Every expectation carries the id of its check in its ``meta``, which is how a result is told from a missing one.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from great_expectations import ExpectationSuite
from great_expectations.compatibility.pydantic import ValidationError
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity
from great_expectations.expectations.registry import get_expectation_impl, list_registered_expectation_implementations

from expectations.check import EXPECTATION, ExpectCheckToHold
from expectations.judgement import META_KEY
from expectations.user_suites import UserSuite
from tasks.planning.errors import SpecError
from tasks.planning.plan import Check, Gate, Severity

_QUERY = "it copies rows into its result; write a rule in the spec instead"
_TYPE = "the schema hash compares column types already"
REFUSED: dict[str, str] = {
    EXPECTATION: "it is Lockstep's own",
    "expect_query_results_to_match_comparison": _QUERY,
    "unexpected_rows_expectation": _QUERY,
    "expect_column_type_to_be": _TYPE,
    "expect_column_values_to_be_in_type_list": _TYPE,
    "expect_column_values_to_be_of_type": _TYPE,
}
"""Expectations that a suite may not use, with the reason."""

_SEVERITIES: dict[Severity, FailureSeverity] = {
    "CRITICAL": FailureSeverity.CRITICAL,
    "WARNING": FailureSeverity.WARNING,
    "INFO": FailureSeverity.INFO,
}


def gate_suite(gate: Gate) -> ExpectationSuite:
    """Return the suite of Lockstep's own checks of a gate."""
    return ExpectationSuite(name=gate.name, expectations=[_of_check(check) for check in gate.checks])


def user_suite(suite: UserSuite, path: Path) -> ExpectationSuite:
    """Return a user's suite. Raises SpecError for a type or an argument that Great Expectations does not have."""
    expectations = []
    for number, entry in enumerate(suite.expectations, 1):
        where = f"The suite {path}, expectation {number}"
        implementation = _implementation(entry.type, where)
        arguments: dict[str, Any] = {
            **entry.arguments,
            "severity": FailureSeverity(entry.severity),
            "description": entry.description,
            "meta": {META_KEY: suite.entry_id(number)},
        }
        try:
            expectations.append(implementation(**arguments))
        except ValidationError as error:
            said = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise SpecError(f"{where}: {entry.type} does not take this: {said}.") from None
    return ExpectationSuite(name=suite.name, expectations=expectations)


def _of_check(check: Check) -> Expectation:
    return ExpectCheckToHold(
        check=check.id,
        title=check.title,
        sql=check.sql,
        severity=_SEVERITIES[check.severity],
        meta={META_KEY: check.id},
    )


def _implementation(name: str, where: str) -> type[Expectation]:
    if name in REFUSED:
        raise SpecError(f"{where}: {name} is not for a gate: {REFUSED[name]}.")
    known = list_registered_expectation_implementations()
    if name not in known:
        nearest = difflib.get_close_matches(name, [other for other in known if other not in REFUSED], n=3)
        raise SpecError(f"{where}: there is no {name}.", remedy=f"Nearest: {', '.join(nearest)}." if nearest else None)
    return get_expectation_impl(name)
