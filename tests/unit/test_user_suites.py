"""Reading the user's suites: what is wrong is said with the file and the entry."""

from __future__ import annotations

from pathlib import Path

import pytest

from expectations.user_suites import find_suite, load_suite
from tasks.planning.errors import SpecError

SOUND = "name: own\ntable: t\nexpectations: [{type: expect_column_values_to_be_unique, column: a}]\n"
REPOSITORY = Path(__file__).parent.parent.parent


def test_a_suite_is_critical_and_runs_at_every_gate_unless_it_says_otherwise(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SOUND)
    suite = load_suite(tmp_path / "s.yaml")
    assert [suite.applies(gate) for gate in ("preflight", "equality", "final", "a gate of later")] == [True] * 4
    assert suite.expectations[0].severity == "critical"
    assert suite.expectations[0].arguments == {"column": "a"}
    assert suite.entry_title(1) == "t: expect_column_values_to_be_unique of a (own)"


def test_the_example_is_sound_and_about_the_old_shape() -> None:
    suite = load_suite(find_suite("expectations/suites/intake.yaml", None))
    assert suite.applies("preflight")
    assert suite.applies("equality")
    assert not suite.applies("final")
    assert len(suite.expectations) == 5


def test_a_suite_beside_the_spec_comes_before_one_of_lockstep(tmp_path: Path) -> None:
    beside = tmp_path / "expectations" / "suites" / "intake.yaml"
    beside.parent.mkdir(parents=True)
    beside.write_text(SOUND)
    assert find_suite("expectations/suites/intake.yaml", tmp_path) == beside
    assert find_suite("expectations/suites/intake.yaml", None).is_relative_to(REPOSITORY)
    with pytest.raises(SpecError, match=r"absent\.yaml is neither"):
        find_suite("absent.yaml", tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", r"s\.yaml, line 1 is not valid YAML"),
        ("[]", "is not a mapping"),
        ("name: own\ntable: t\n", "expectations: field required"),
        ("name: own\ntable: t\nexpectations: []\n", "expectations: tuple should have at least 1 item"),
        (SOUND + "when: [afterwards]\n", "when.0: input should be 'preflight', 'equality' or 'final'"),
        (SOUND + "when: []\n", "when: tuple should have at least 1 item"),
        (SOUND + "colour: red\n", "colour: extra inputs are not permitted"),
        (SOUND.replace("table: t", "table: a.b.c"), "table: string should match"),
        (SOUND.replace("column: a", "column: a, severity: huge"), "expectation 1, severity: input should be"),
        (SOUND.replace("expect_column", "unexpected_column"), "expectation 1, type: string should match"),
        (SOUND.replace("column: a", "column: a, result_format: COMPLETE"), "expectation 1: result_format is not the"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(SpecError, match=said) as caught:
        load_suite(tmp_path / "s.yaml")
    assert str(tmp_path / "s.yaml") in caught.value.what


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read: No such file or directory"):
        load_suite(tmp_path / "s.yaml")
