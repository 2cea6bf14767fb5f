"""What a person is told of where a migration stands: approvals, soaks, commands to copy, what is left of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from flows.verdicts import finding
from flows.views import lines, status_document, told
from tasks.approval import only_soak
from tasks.database.progress import Progress
from tasks.database.records import ApprovalRecord, EventRecord, MigrationRecord, PhaseRecord
from tasks.narration import listening, show_progress
from tasks.planning.gates import CheckResult
from tasks.planning.plan import Approval, Note, Phase, Plan
from tasks.planning.states import MigrationState, PhaseState
from tasks.standing import Standing, losses

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CONTRACT = Phase(name="contract", purpose="", application="", steps=(), approval=Approval(question="Is it gone?"))
WORD = ApprovalRecord(phase="contract", decision="approved", who="me@here", why="", waive_soak=False, at=NOW)


def standing(state: MigrationState = MigrationState.WAITING, phase: Phase = CONTRACT) -> Standing:
    plan = Plan(
        name="intake-v2", database="water", strategy="expand-contract", why="", change="", change_hash="",
        server_version=160000, phases=(phase,), soak_seconds=86_400,
    )  # fmt: skip
    record = MigrationRecord(
        name=plan.name, state=state, plan=plan, spec="", change_hash="", token=1, switched_at=NOW, created_at=NOW,
        updated_at=NOW, error=None,
    )  # fmt: skip
    pending = PhaseRecord(
        phase="contract", position=0, state=PhaseState.PENDING, attempts=0, started_at=None, finished_at=None,
        error=None,
    )  # fmt: skip
    return Standing(
        record=record, phases={"contract": pending}, steps=(), approvals=(), gates={}, progress=(), failures=(),
        events=(), holder=None, now=NOW + timedelta(hours=1),
    )  # fmt: skip


def test_only_notes_of_the_way_back_are_losses() -> None:
    upserts = Note(severity="WARNING", text="two constraints at a time")
    lossy = Note(severity="WARNING", text="the old columns cannot hold 250.55", of_way_back=True)
    there = standing()
    plan = there.plan.model_copy(update={"notes": (upserts, lossy)})
    there = replace(there, record=there.record.model_copy(update={"plan": plan}))
    assert losses(there) == (lossy.text,)


def test_an_approval_is_wanted_until_it_is_given() -> None:
    assert standing().needs_word("contract")
    assert not replace(standing(), approvals=(WORD,)).needs_word("contract")
    taken_back = WORD.model_copy(update={"decision": "rejected"})
    assert replace(standing(), approvals=(WORD, taken_back)).needs_word("contract")
    assert not standing(phase=CONTRACT.model_copy(update={"approval": None})).needs_word("contract")


@pytest.mark.parametrize(
    ("there", "given"),
    [
        (replace(standing(), approvals=(WORD,)), "is approved already, by me@here"),
        (standing(phase=CONTRACT.model_copy(update={"approval": None})), "needs no approval"),
    ],
)
def test_an_approval_too_many_says_when_the_soak_ends_and_how_to_end_it(there: Standing, given: str) -> None:
    wait = there.waits_for
    assert wait is not None
    due = only_soak(there, wait)
    assert due.exit_code == 3
    assert due.what == f"contract of intake-v2 {given}. The soak ends at 2026-11-23 12:00 UTC."
    assert "lockstep approve intake-v2 --waive-soak --why" in str(due.remedy)


def test_each_command_has_a_line_to_itself() -> None:
    word = replace(standing(), now=NOW + timedelta(days=2))
    assert lines(told(word).next) == [
        "  Is it gone?",
        "    lockstep approve intake-v2",
        "  and then",
        "    lockstep run intake-v2 --database water",
    ]
    assert lines(told(replace(word, approvals=(WORD,))).next) == ["    lockstep run intake-v2 --database water"]
    failed = standing(MigrationState.FAILED)
    assert lines(told(failed).next)[-2:] == ["  Repair the cause, then:", "    lockstep run intake-v2 --database water"]


@pytest.mark.parametrize(
    ("ended", "where", "safe"), [("finished", "it was finished", "committed"), ("rolled_back", "rolled back", "before")]
)
def test_of_a_cleaned_migration_its_end_is_told(ended: str, where: str, safe: str) -> None:
    summary = EventRecord(id=1, at=NOW, kind="summary", detail={"state": ended})
    cleaned = replace(standing(MigrationState.CLEANED), phases={}, events=(summary,))
    document = status_document(cleaned)
    assert document["state"] == "cleaned"
    assert document["where"].startswith("Cleaned: ")
    assert where in document["where"]
    assert "only a summary is kept" in document["where"]
    assert safe in document["safe"]


def test_a_check_of_no_rows_says_so() -> None:
    check = CheckResult(check="c", title="intake: c", severity="CRITICAL", success=True, failing=0, evaluated=0)
    assert finding(check) == "intake: c: holds, with nothing to look at"
    assert finding(check.model_copy(update={"evaluated": 3})) == "intake: c: holds for 3"
    failed = check.model_copy(update={"success": False, "error": "22012 DivisionByZero"})
    assert finding(failed) == failed.summary


class Ears:
    def __init__(self) -> None:
        self.heard: list[int] = []

    def say(self, sentence: str) -> None:
        raise AssertionError(sentence)

    def progress(self, progress: Progress) -> None:
        self.heard.append(progress.rows_done)


@contextmanager
def ears() -> Iterator[list[int]]:
    listener = Ears()
    with listening(listener):
        yield listener.heard


def test_no_progress_is_told_where_nothing_was_left_to_do() -> None:
    with ears() as heard:
        show_progress(Progress("fill", "Fill", "intake", 20_000, 20_000, 0.0, None))
        show_progress(Progress("fill", "Fill", "intake", 20_003, 20_003, 12.5, 0.0))
    assert heard == [20_003]
