"""What the history table and the folder say together: the state of every migration, as Flyway names it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cmp_to_key

from tasks.planning.errors import SpecError, Unsupported
from tasks.planning.flyway.folder import Folder, Migration
from tasks.planning.flyway.settings import Settings
from tasks.planning.flyway.versions import Version

COMPILED = frozenset({"JDBC", "JDBC_BASELINE", "CUSTOM"})
"""Types of migrations that are classes of the application: no folder has them, and Lockstep does not see them."""

SYNTHETIC = frozenset({"SCHEMA", "BASELINE", "DELETE"})
"""Rows that Flyway writes of itself."""

_BASELINES = frozenset({"BASELINE", "SQL_BASELINE", "JDBC_BASELINE"})
_TYPES = SYNTHETIC | _BASELINES | COMPILED | {"SQL", "SCRIPT"}
_FORMER_TYPES = {"SPRING_JDBC": "JDBC", "SQL_STATE_SCRIPT": "SQL_BASELINE", "JDBC_STATE_SCRIPT": "JDBC_BASELINE"}


class State(Enum):
    """Flyway's states, with the names that its `info` prints."""

    PENDING = "Pending"
    ABOVE_TARGET = "Above Target"
    BELOW_BASELINE = "Below Baseline"
    BASELINE_IGNORED = "Ignored (Baseline)"
    BASELINE = "Baseline"
    IGNORED = "Ignored"
    MISSING_SUCCESS = "Missing"
    MISSING_FAILED = "Failed (Missing)"
    SUCCESS = "Success"
    FAILED = "Failed"
    OUT_OF_ORDER = "Out of Order"
    FUTURE_SUCCESS = "Future"
    FUTURE_FAILED = "Failed (Future)"
    OUTDATED = "Outdated"
    SUPERSEDED = "Superseded"
    DELETED = "Deleted"


FAILED_STATES = frozenset({State.FAILED, State.MISSING_FAILED, State.FUTURE_FAILED})
_BEFORE_APPLIED = frozenset({State.BELOW_BASELINE, State.BASELINE_IGNORED})


@dataclass(frozen=True, slots=True)
class Applied:
    """A row of the history table. Raises `Unsupported` for a type of Flyway's paid editions."""

    rank: int
    version: Version | None
    description: str
    type: str
    script: str
    checksum: int | None
    success: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "type", _FORMER_TYPES.get(self.type, self.type))
        if self.type not in _TYPES:
            raise Unsupported(
                f"a history with a migration of the type {self.type} ({self.script})",
                instead="Flyway's open-source edition does not read it either. Give Lockstep the pending files one by "
                "one.",
            )


@dataclass(frozen=True, slots=True)
class Judged:
    """One line of Flyway's `info`: a file, a row, or both."""

    state: State
    migration: Migration | None
    applied: Applied | None

    @property
    def version(self) -> Version | None:
        return self.applied.version if self.applied else self._file.version

    @property
    def description(self) -> str:
        return self.applied.description if self.applied else self._file.description

    @property
    def type(self) -> str:
        return self.applied.type if self.applied else self._file.type

    @property
    def script(self) -> str:
        return self.applied.script if self.applied else self._file.script

    @property
    def _file(self) -> Migration:
        assert self.migration is not None  # noqa: S101 - made with one of the two at least
        return self.migration


@dataclass(frozen=True, slots=True)
class Judgement:
    """All migrations in the order of Flyway's `info`: by rank, then what is not applied in its own order."""

    all: tuple[Judged, ...]
    applied_baseline: Version | None = None

    def pending(self) -> tuple[Migration, ...]:
        """Return what `migrate` would run, in its order: versions, then repeatable ones by description."""
        return tuple(each.migration for each in self.all if each.state is State.PENDING and each.migration)

    def failed(self) -> tuple[Judged, ...]:
        return tuple(each for each in self.all if each.state in FAILED_STATES)


@dataclass(slots=True)
class _Row:
    applied: Applied
    out_of_order: bool = False
    deleted: bool = False


@dataclass(slots=True)
class _Context:
    """What Flyway gathers over all migrations before it judges one."""

    settings: Settings
    last_resolved: Version | None = None
    last_applied: Version | None = None
    applied_baseline: Version | None = None
    pending_baseline: Version | None = None


def judge(folder: Folder, history: Iterable[Applied], settings: Settings = Settings()) -> Judgement:  # noqa: B008
    """Return every migration's state, given the rows of the history table by their rank; none: nothing is applied.

    Migrations that are classes of the application are taken for unchanged, and pending ones are not seen. Raises
    `SpecError` for a history that contradicts itself, and for a target that no migration has.
    """
    rows = tuple(history)
    context = _Context(settings)
    files: dict[tuple[Version | None, str], Migration] = {
        (each.version, each.type): each for each in folder.migrations if each.version is not None
    }
    repeatable = {each.description: each for each in folder.migrations if each.version is None}
    versioned_rows = _versioned_rows(rows, context)
    repeatable_rows = _repeatable_rows(rows)
    context.last_resolved = _latest(
        *(each.version for each in folder.migrations),
        *(row.version for row in rows if row.type in COMPILED),
    )
    _follow_order(versioned_rows, context)
    latest = _latest_runs(repeatable_rows)

    versioned: list[Judged] = []
    done: set[tuple[Version | None, str]] = set()
    for row in versioned_rows:
        key = (row.applied.version, row.applied.type)
        file = files.get(key)
        if file is not None and not row.deleted:
            done.add(key)
        versioned.append(Judged(_applied_state(row, file, context, latest), file, row.applied))
    open_files = [each for key, each in files.items() if key not in done]
    context.pending_baseline = _latest(*(each.version for each in open_files if each.type == "SQL_BASELINE"))
    found = [*versioned, *(Judged(_open_state(each, context), each, None) for each in open_files)]
    _check_target(settings.target, found)

    unchanged: set[str] = set()
    for row in repeatable_rows:
        name, file = row.applied.description, repeatable.get(row.applied.description)
        current = not row.deleted and row.applied.type != "DELETE" and row.applied.rank == latest.get(name)
        if current and file is not None and file.has_checksum(row.applied.checksum):
            unchanged.add(name)
        found.append(Judged(_applied_state(row, file, context, latest), file, row.applied))
    found += [
        Judged(_open_state(file, context), file, None) for name, file in repeatable.items() if name not in unchanged
    ]
    return Judgement(tuple(sorted(found, key=cmp_to_key(_compared))), context.applied_baseline)


# ------------------------------------------------------------------------------------------------ rows


def _versioned_rows(rows: Sequence[Applied], context: _Context) -> list[_Row]:
    found: list[_Row] = []
    for row in rows:
        if row.version is None:
            continue
        if row.type in _BASELINES:
            context.applied_baseline = _latest(context.applied_baseline, row.version)
        if row.type == "DELETE" and row.success:
            _mark_deleted([each for each in found if each.applied.version == row.version], row)
        else:
            found.append(_Row(row))
    return found


def _repeatable_rows(rows: Sequence[Applied]) -> list[_Row]:
    found: list[_Row] = []
    for row in rows:
        if row.version is not None:
            continue
        found.append(_Row(row))
        if row.type == "DELETE" and row.success:
            same = [each for each in found if each.applied.description == row.description]
            for each in [each for each in same if each.applied.type not in SYNTHETIC][-1:]:
                each.deleted = True
    return found


def _mark_deleted(same: Sequence[_Row], row: Applied) -> None:
    for each in [each for each in same if each.applied.type not in SYNTHETIC][-1:]:
        if each.deleted:
            raise SpecError(
                f"The history says twice that version {row.version} was deleted.",
                remedy="Flyway refuses this history too: remove one of the two rows.",
            )
        each.deleted = True


def _follow_order(rows: Sequence[_Row], context: _Context) -> None:
    for row in rows:
        version = row.applied.version
        if _latest(context.last_applied, version) == context.last_applied:
            row.out_of_order = True
        elif row.applied.type != "DELETE" and not row.deleted:
            context.last_applied = version


def _latest_runs(rows: Sequence[_Row]) -> dict[str, int]:
    """Return the rank of the last run of each repeatable migration, by description."""
    latest: dict[str, int] = {}
    for row in rows:
        if not (row.deleted and row.applied.type == "DELETE"):
            latest[row.applied.description] = max(
                row.applied.rank, latest.get(row.applied.description, row.applied.rank)
            )
    return latest


def _check_target(target: Version | None, found: Sequence[Judged]) -> None:
    if target is not None and all(each.version != target for each in found):
        raise SpecError(
            f"No migration has the target's version {target}.", remedy="Flyway fails here too: name one that is there."
        )


def _latest(*versions: Version | None) -> Version | None:
    return max((each for each in versions if each is not None), default=None)


# ------------------------------------------------------------------------------------------------ states


def _applied_state(row: _Row, file: Migration | None, context: _Context, latest: dict[str, int]) -> State:
    applied = row.applied
    if row.deleted:
        return State.DELETED
    if applied.type == "DELETE":
        return State.SUCCESS
    is_latest = applied.version is not None or latest.get(applied.description) in (None, applied.rank)
    missing = None
    if file is None and is_latest and applied.type not in COMPILED:
        missing = _missing_state(applied, context)
    if applied.type in _BASELINES:
        if applied.type != "BASELINE":
            return State.FAILED if not applied.success else missing or State.BASELINE
        return State.BASELINE
    if missing is not None:
        return missing
    if not applied.success:
        return State.FAILED
    if applied.type == "SCHEMA":
        return State.SUCCESS
    if applied.version is None:
        if not is_latest:
            return State.SUPERSEDED
        same = applied.type in COMPILED or (file is not None and file.has_checksum(applied.checksum))
        return State.SUCCESS if same else State.OUTDATED
    return State.OUT_OF_ORDER if row.out_of_order else State.SUCCESS


def _missing_state(applied: Applied, context: _Context) -> State:
    if applied.type == "SCHEMA":
        return State.SUCCESS
    last = context.last_resolved
    if applied.version is None or (last is not None and applied.version < last):
        return State.MISSING_SUCCESS if applied.success else State.MISSING_FAILED
    return State.FUTURE_SUCCESS if applied.success else State.FUTURE_FAILED


def _open_state(file: Migration, context: _Context) -> State:
    if not file.script_settings.should_execute:
        return State.IGNORED
    state = _plain_open_state(file, context)
    if file.type == "SQL_BASELINE":
        begun = context.applied_baseline is not None or context.last_applied is not None
        if state is State.PENDING and begun:
            return State.IGNORED
        if state is State.BASELINE_IGNORED and file.version == context.pending_baseline and not begun:
            return State.PENDING
    return state


def _plain_open_state(file: Migration, context: _Context) -> State:
    version = file.version
    if version is None:
        return State.PENDING
    baseline = context.pending_baseline if context.last_applied is None else context.applied_baseline
    if baseline is not None and version <= baseline:
        return State.BELOW_BASELINE if version < baseline else State.BASELINE_IGNORED
    if context.settings.target is not None and version > context.settings.target:
        return State.ABOVE_TARGET
    below = context.last_applied is not None and version < context.last_applied
    return State.IGNORED if below and not context.settings.out_of_order else State.PENDING


# ------------------------------------------------------------------------------------------------ order


def _compared(first: Judged, second: Judged) -> int:
    if first.applied is not None and second.applied is not None:
        return first.applied.rank - second.applied.rank
    for sign, one, other in ((-1, first, second), (1, second, first)):
        if one.state in _BEFORE_APPLIED and other.applied is not None:
            return sign
    for sign, one in ((-1, first), (1, second)):
        if one.applied is not None:
            return sign
    one_key, other_key = _open_order(first), _open_order(second)
    return (one_key > other_key) - (one_key < other_key)


def _open_order(judged: Judged) -> tuple[bool, Version, bool, str]:
    version = judged.version
    # Of one version, the baseline comes last.
    baseline = judged.type in _BASELINES
    return version is None, version or Version((), ""), baseline, "" if version else judged.description
