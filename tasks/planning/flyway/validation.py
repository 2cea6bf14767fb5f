"""What Flyway's `validate` objects to, and what stops its `migrate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.planning.errors import SpecError
from tasks.planning.flyway.folder import Migration
from tasks.planning.flyway.history import COMPILED, FAILED_STATES, SYNTHETIC, Applied, Judged, Judgement, State
from tasks.planning.flyway.settings import PENDING_IGNORED, Settings

Code = Literal[
    "FAILED_VERSIONED_MIGRATION",
    "FAILED_REPEATABLE_MIGRATION",
    "APPLIED_VERSIONED_MIGRATION_NOT_RESOLVED",
    "APPLIED_REPEATABLE_MIGRATION_NOT_RESOLVED",
    "RESOLVED_VERSIONED_MIGRATION_NOT_APPLIED",
    "RESOLVED_REPEATABLE_MIGRATION_NOT_APPLIED",
    "OUTDATED_REPEATABLE_MIGRATION",
    "TYPE_MISMATCH",
    "CHECKSUM_MISMATCH",
    "DESCRIPTION_MISMATCH",
]
"""Flyway's names. Versions of another type than their file's are, for Flyway, a row and a file without each other."""

_LONGEST_DESCRIPTION = 200


@dataclass(frozen=True, slots=True)
class Problem:
    """One objection: ``script`` is the file's name as the history has it, or would have it."""

    code: Code
    judged: Judged
    what: str
    remedy: str

    @property
    def script(self) -> str:
        return self.judged.script


def validate(judgement: Judgement, settings: Settings = Settings()) -> tuple[Problem, ...]:  # noqa: B008 - frozen
    """Return what `validate` objects to; pending migrations too, unless the settings ignore them."""
    ignored = _Ignored(settings.ignore_migration_patterns)
    problems = (_problem(each, judgement, ignored) for each in judgement.all)
    return tuple(each for each in problems if each is not None)


def stops_migrate(judgement: Judgement, settings: Settings = Settings()) -> tuple[Problem, ...]:  # noqa: B008
    """Return why `migrate` would do nothing; empty where it would run what is pending."""
    ignored = _Ignored((*settings.ignore_migration_patterns, PENDING_IGNORED))
    if settings.validate_on_migrate:
        problems = (_problem(each, judgement, ignored) for each in judgement.all)
        found = tuple(each for each in problems if each is not None)
        if found:
            return found
    failed = judgement.failed()
    if len(failed) == 1 and failed[0].state is State.FUTURE_FAILED and ignored.covers("future"):
        return ()
    return tuple(_failed(each) for each in failed)


def refuse(problems: Sequence[Problem]) -> None:
    """Raise `SpecError` with all of the problems, if there are any."""
    if problems:
        raise SpecError(
            "Flyway would refuse to migrate:\n" + "\n".join(f"  {each.what}" for each in problems),
            remedy=" ".join(dict.fromkeys(each.remedy for each in problems)),
        )


class _Ignored:
    """Patterns such as ``*:pending``, ``versioned:missing``. Raises `SpecError` for others than Flyway's."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns: set[tuple[str, str]] = set()
        for pattern in patterns:
            kind, _, state = (part.strip().lower() for part in pattern.partition(":"))
            if kind not in ("*", "repeatable", "versioned") or state not in (
                "*", "missing", "pending", "ignored", "future",
            ):  # fmt: skip
                raise SpecError(
                    f"ignoreMigrationPatterns: {pattern!r} is not a pattern of Flyway's.",
                    remedy="Write type:state, with *, repeatable or versioned, and *, missing, pending, ignored or "
                    "future.",
                )
            self._patterns.add((kind, state))

    def hides(self, judged: Judged) -> bool:
        kind = "repeatable" if judged.version is None else "versioned"
        return self._hides(kind, judged.state.value.lower())

    def covers(self, state: str) -> bool:
        """Whether migrations of both kinds in this state are ignored."""
        return self._hides("versioned", state) and self._hides("repeatable", state)

    def _hides(self, kind: str, state: str) -> bool:
        return bool(self._patterns & {("*", "*"), ("*", state), (kind, "*"), (kind, state)})


def _problem(judged: Judged, judgement: Judgement, ignored: _Ignored) -> Problem | None:
    state = judged.state
    if state in (State.ABOVE_TARGET, State.DELETED) or ignored.hides(judged):
        return None
    if state in FAILED_STATES and not (state is State.FUTURE_FAILED and ignored.covers("future")):
        return _failed(judged)
    if judged.migration is None and judged.applied is not None:
        return _unresolved(judged, judged.applied, ignored)
    if judged.applied is None and judged.migration is not None:
        return _open(judged, judged.migration, ignored)
    if state is State.OUTDATED and not ignored.covers("pending"):
        return Problem(
            "OUTDATED_REPEATABLE_MIGRATION", judged, f"{judged.script} has changed since it was run.", _RUN_MIGRATE
        )
    if judged.applied is not None and judged.migration is not None:
        return _mismatch(judged, judged.migration, judged.applied, judgement, ignored)
    return None


_RUN_MIGRATE = "Run migrate."
_REPAIR = "Put the file back as it was run, or run Flyway's repair, which records what it is now."


def _failed(judged: Judged) -> Problem:
    return Problem(
        "FAILED_VERSIONED_MIGRATION" if judged.version else "FAILED_REPEATABLE_MIGRATION",
        judged,
        f"{judged.script} failed outside a transaction; what it did before is still there.",
        "Take back by hand what the failed migration did, then run Flyway's repair, which removes its row.",
    )


def _unresolved(judged: Judged, applied: Applied, ignored: _Ignored) -> Problem | None:
    excused = (
        applied.type in SYNTHETIC
        or applied.type in COMPILED
        or judged.state is State.SUPERSEDED
        or (judged.state in (State.MISSING_SUCCESS, State.MISSING_FAILED) and ignored.covers("missing"))
        or (judged.state in (State.FUTURE_SUCCESS, State.FUTURE_FAILED) and ignored.covers("future"))
    )
    if excused:
        return None
    kind: Code = (
        "APPLIED_VERSIONED_MIGRATION_NOT_RESOLVED" if judged.version else "APPLIED_REPEATABLE_MIGRATION_NOT_RESOLVED"
    )
    return Problem(
        kind,
        judged,
        f"{judged.script} was applied, and the folder does not have it.",
        "Put the file back, or, if it was removed on purpose, run Flyway's repair.",
    )


def _open(judged: Judged, migration: Migration, ignored: _Ignored) -> Problem | None:
    code: Code = (
        "RESOLVED_VERSIONED_MIGRATION_NOT_APPLIED" if judged.version else "RESOLVED_REPEATABLE_MIGRATION_NOT_APPLIED"
    )
    if judged.state is State.IGNORED and not ignored.covers("ignored"):
        if migration.type == "SQL_BASELINE" or not migration.script_settings.should_execute:
            return None
        return Problem(
            code,
            judged,
            f"{judged.script} is not applied, and its version is below one that is.",
            "Give it a version above the latest one, or set outOfOrder=true.",
        )
    if judged.state is State.PENDING and not ignored.covers("pending"):
        return Problem(code, judged, f"{judged.script} is not applied yet.", _RUN_MIGRATE)
    return None


def _mismatch(judged: Judged, file: Migration, row: Applied, judgement: Judgement, ignored: _Ignored) -> Problem | None:
    baseline = judgement.applied_baseline
    if judged.version is not None and baseline is not None and judged.version <= baseline:
        return None
    if row.type == "DELETE":
        return None
    if row.type != file.type:
        return Problem(
            "TYPE_MISMATCH",
            judged,
            f"{judged.script} was of the type {row.type} when it was run, and is of the type {file.type} now.",
            _REPAIR,
        )
    compared = file.version is not None or (
        ignored.covers("pending") and judged.state not in (State.OUTDATED, State.SUPERSEDED)
    )
    if compared and not file.has_checksum(row.checksum):
        return Problem(
            "CHECKSUM_MISMATCH",
            judged,
            f"{judged.script} is not what was run: its checksum is {file.checksum}, and {row.checksum} was applied.",
            _REPAIR,
        )
    if abbreviated(file.description) != row.description:
        return Problem(
            "DESCRIPTION_MISMATCH",
            judged,
            f"{judged.script} was called {row.description!r} when it was run, and is {file.description!r} now.",
            _REPAIR,
        )
    return None


def abbreviated(description: str) -> str:
    """Return the description as the history table holds it."""
    if len(description) <= _LONGEST_DESCRIPTION:
        return description
    return description[: _LONGEST_DESCRIPTION - 3] + "..."
