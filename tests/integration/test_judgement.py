"""What becomes of Great Expectations' results: one for every check, or the check has failed."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest

from expectations.judgement import FOUND_KEY, META_KEY, Demand, judge, strip

if TYPE_CHECKING:
    from great_expectations.core import ExpectationValidationResult

DEMANDS = (Demand("a", "A", "CRITICAL", corruption=True), Demand("b", "B", "WARNING"))
SOUND: dict[str, Any] = {"failing": 0, "evaluated": 7, "sample": [], "observed": {}}


def found(content: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a result that holds what a check of Lockstep's own found."""
    return {FOUND_KEY: content}


def result(check: str, success: bool = True, error: str | None = None, **content: Any) -> ExpectationValidationResult:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"great_expectations\..*")
        from great_expectations.core import ExpectationValidationResult
        from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    raised = {"exception_message": error, "exception_traceback": error, "raised_exception": error is not None}
    return ExpectationValidationResult(
        success=success,
        expectation_config=ExpectationConfiguration(type="expect_x", kwargs={}, meta={META_KEY: check}),
        result=content,
        # As for a metric that failed: one report a metric, under its id.
        exception_info={"metric": raised} if error else raised,
    )


def test_results_come_in_the_order_of_the_demands() -> None:
    judged, lost = judge(DEMANDS, [result("b", **found(SOUND)), result("a", **found(SOUND))])
    assert [(item.check, item.success, item.evaluated) for item in judged] == [("a", True, 7), ("b", True, 7)]
    assert not lost


@pytest.mark.parametrize(
    ("results", "error"),
    [
        (["b"], "no result"),
        (["a", "a", "b"], "2 results for one check"),
        (["b", "elsewhere"], "no result"),
    ],
)
def test_a_check_without_exactly_one_result_has_failed(results: list[str], error: str) -> None:
    judged, _ = judge(DEMANDS, [result(check, **found(SOUND)) for check in results])
    assert [item.success for item in judged] == [False, True]
    assert judged[0].error == error
    assert not judged[0].corruption, "nobody looked"


def test_nothing_that_is_said_to_hold_is_believed_against_its_numbers() -> None:
    broken = found(SOUND | {"failing": 2, "sample": ["[1]", "[2]"]})
    judged, _ = judge(DEMANDS, [result("a", **broken), result("b", success=False, **found(SOUND))])
    assert [(item.success, item.failing, item.corruption) for item in judged] == [(False, 2, True), (False, 0, False)]
    assert judged[1].error == "the result contradicts itself"


def test_a_lost_connection_is_told_apart() -> None:
    gone = found({"error": "57P01 AdminShutdown", "lost": True})
    judged, lost = judge(DEMANDS, [result("a", **gone), result("b", **found(SOUND))])
    assert lost
    assert judged[0].error == "57P01 AdminShutdown"


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("(psycopg.errors.UndefinedColumn) 42703 UndefinedColumn\n[SQL: …]", "42703 UndefinedColumn"),
        ("(psycopg.errors.UndefinedColumn) canary", "UndefinedColumn"),
        ("Could not parse canary", "Great Expectations raised an exception"),
    ],
)
def test_an_exception_is_told_by_its_kind(message: str, kind: str) -> None:
    judged, _ = judge(DEMANDS[:1], [result("a", success=False, error=message)])
    assert judged[0].error == kind


def test_stripping_leaves_counts_only() -> None:
    class Suite:
        results = (
            result(
                "a", element_count=5, unexpected_count=1, partial_unexpected_list=["canary"], observed_value="canary"
            ),
            result("b", success=False, error="Could not parse canary"),
            result("c", details={"mismatched": ["canary"]}),
            result("d", **found(SOUND | {"failing": 1, "sample": ["[4]"], "observed": {"rows": "7"}})),
        )

    strip(Suite)  # type: ignore[arg-type]
    assert "canary" not in str([item.to_json_dict() for item in Suite.results])
    assert Suite.results[0].result == {"element_count": 5, "unexpected_count": 1}
    assert Suite.results[3].result == {"observed_value": "1 of 7 fail; keys [4]; rows: 7"}
