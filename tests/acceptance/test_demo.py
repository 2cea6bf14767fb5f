"""`lockstep demo`, small: it goes through, says what it did, and refuses what is not built."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from tests.acceptance.shell import run_once


def test_the_demo_goes_through(environment: Mapping[str, str]) -> None:
    answer = run_once("demo", "--rows", "2000", environment=environment, timeout=280)
    assert answer.code == 0, answer
    out = answer.out
    assert "Everything is equal." in out
    assert re.search(r"Statements: +[\d,]{3,} by the application, 0 errors", out)
    assert "approves by itself" in out
    assert re.search(r"Killed with [\d,]+ of [\d,]+ rows done", out)
    assert "Rolled back: the schema is as before" in out
    found = re.search(r"Acknowledged writes: +([\d,]+) on ([\d,]+) rows, ([\d,]+) of them found as written", out)
    assert found is not None
    assert found[2] == found[3]
    for phase in ("expand", "backfill", "constrain", "switch", "contract"):
        assert re.search(rf"^  {phase} +[\d.]+ s   done", out, re.MULTILINE), phase
    assert re.search(r"Data Docs: +/\S+", out)
    assert re.search(r"Plan: +/\S+plan\.md", out)


@pytest.mark.parametrize("strategy", ["shadow-table", "blue-green"])
def test_a_strategy_that_is_not_built_is_refused_by_name(strategy: str, environment: Mapping[str, str]) -> None:
    answer = run_once("demo", "--strategy", strategy, environment=environment)
    assert answer.code == 2
    assert strategy in answer.err
