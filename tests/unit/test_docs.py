"""docs/on-call.md explains every state and every error, and nothing that does not exist."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tasks.planning import errors
from tasks.planning.states import MigrationState, PhaseState

ON_CALL = (Path(__file__).parents[2] / "docs" / "on-call.md").read_text(encoding="utf-8")
ERRORS = {
    name
    for name, member in inspect.getmembers(errors, inspect.isclass)
    if issubclass(member, errors.LockstepError) and member.__module__ == errors.__name__
}
CHAPTERS: dict[str, Iterable[str]] = {
    "States of a migration": [state.value for state in MigrationState],
    "States of a phase": [state.value for state in PhaseState],
    "Errors": ERRORS,
}
QUESTIONS = ("Means", "Data", "Do")


def chapter(title: str) -> dict[str, str]:
    """Return the entries of a chapter: their text by the name in their heading."""
    (body,) = re.findall(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", ON_CALL, re.MULTILINE | re.DOTALL)
    entries: list[tuple[str, str]] = re.findall(r"^### `(\w+)`$(.*?)(?=^### |\Z)", body, re.MULTILINE | re.DOTALL)
    assert len({name for name, _ in entries}) == len(entries), "an entry is there twice"
    return dict(entries)


@pytest.mark.parametrize("title", CHAPTERS)
def test_every_name_is_explained_and_no_other(title: str) -> None:
    assert set(chapter(title)) == set(CHAPTERS[title])


@pytest.mark.parametrize(("title", "name"), [(title, name) for title in CHAPTERS for name in sorted(CHAPTERS[title])])
def test_an_entry_answers_the_three_questions(title: str, name: str) -> None:
    text = chapter(title)[name]
    for question in QUESTIONS:
        (answer,) = re.findall(rf"^- \*\*{question}:\*\* (.*?)(?=^- |\Z)", text, re.MULTILINE | re.DOTALL)
        assert len(answer.split()) >= 1
    (data,) = re.findall(r"^- \*\*Data:\*\* (\w+)", text, re.MULTILINE)
    assert data == "safe", "the first word answers whether the data is safe"


def test_the_errors_have_exit_codes_of_the_command_line() -> None:
    codes = {getattr(errors, name).exit_code for name in ERRORS}
    assert codes == {1, 2, 3}
    for code in codes:
        assert re.search(rf"Exit codes:.*\b{code} ", ON_CALL)
