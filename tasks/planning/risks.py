"""What is risky about a change: a table of rules, kept as data, over the differences that the change makes.

A difference has the level of the first rule that holds for it, raised by one where it touches a personal column. The
levels of planner.md's four scenarios (a table with personal data and credentials, another shape of a table, a
constraint, a foreign key: CRITICAL, HIGH, HIGH, MEDIUM) are a test.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import get_args

from tasks.planning.catalog import Catalog, Table
from tasks.planning.change import (
    Change,
    ColumnAdded,
    ColumnChanged,
    ColumnDropped,
    ConstraintAdded,
    ConstraintChanged,
    ConstraintDropped,
    DependentChanged,
    GrantsChanged,
    IndexAdded,
    IndexChanged,
    IndexDropped,
    ObjectChanged,
    TableAdded,
    TableDropped,
    TableOptionChanged,
    TableRenamed,
    TriggerChanged,
)
from tasks.planning.data_changes import RowStatement
from tasks.planning.names import TableName, display
from tasks.planning.plan import Note, Risk, RiskLevel

LEVELS: tuple[RiskLevel, ...] = get_args(RiskLevel)
"""From the worst to the least."""

_CREDENTIAL = re.compile(
    r"(^|_)(pass|passwd|password|passphrase|pwd|secret|token|otp|mfa|totp|salt|credentials?|api_?key|login)(_|$)"
)
_PERSONAL = re.compile(
    r"(^|_)(e_?mail|mail|phone|mobile|fax|(first|last|full|given|family|middle|sur|user)_?name|birth|birthday|birthdate|dob"
    r"|born|gender|sex|address|street|zip|postcode|postal|city|ssn|passport|iban|card|ip|lat|lon|latitude|longitude"
    r"|weight|height|blood|diagnosis|health|religion|salary)(_|$)"
)
BIG = 1_000_000
"""Rows from which building an index is work to be watched."""


@dataclass(frozen=True)
class Subject:
    """A difference, and the table that it is about (None for an object that is no table's)."""

    change: Change | RowStatement
    table: Table | None
    personal: frozenset[str]
    """The table's personal columns."""
    new: frozenset[str] = frozenset()
    """Columns that the change adds to the table: no statement of the old version writes them."""

    @property
    def has_credentials(self) -> bool:
        return self.table is not None and any(_CREDENTIAL.search(column.name.lower()) for column in self.table.columns)

    @property
    def touched(self) -> frozenset[str]:
        """The columns that the difference is about, by their names before it."""
        match self.change:
            case ColumnDropped() | ColumnChanged():
                return frozenset({self.change.before.name})
            case ConstraintAdded():
                return frozenset(self.change.after.columns)
            case TableDropped() | TableRenamed():
                return frozenset(column.name for column in self.table.columns) if self.table else frozenset()
            case RowStatement(verb="update", columns=columns):
                return frozenset(columns)
            case RowStatement():
                return frozenset(column.name for column in self.table.columns) if self.table else frozenset()
            case _:
                return frozenset()


@dataclass(frozen=True)
class RiskRule:
    """One row of the table. ``tolerance`` is the downtime that such a change may cost at most, in words."""

    id: str
    level: RiskLevel
    concerns: str
    mitigation: str
    tolerance: str
    applies: Callable[[Subject], bool]


def _is(*kinds: type) -> Callable[[Subject], bool]:
    return lambda subject: isinstance(subject.change, kinds)


def _foreign_key(subject: Subject) -> bool:
    match subject.change:
        case (
            ConstraintAdded(after=constraint)
            | ConstraintDropped(before=constraint)
            | ConstraintChanged(after=constraint)
        ):
            return constraint.kind == "foreign_key"
        case _:
            return False


def _another_shape(subject: Subject) -> bool:
    change = subject.change
    return isinstance(change, ColumnChanged) and (
        change.renamed or change.retyped or change.collation_changed or change.generation_changed
    )


def _demand(subject: Subject) -> bool:
    match subject.change:
        case ConstraintAdded(after=constraint):
            return not set(constraint.columns) <= subject.new
        case ColumnChanged() as change:
            return change.nullability_changed and change.after.not_null
        case IndexAdded(after=index):
            return index.unique and not set(index.columns) <= subject.new
        case _:
            return False


def _of_people_who_log_in(subject: Subject) -> bool:
    shapes = isinstance(subject.change, ColumnDropped | TableDropped | TableRenamed) or _another_shape(subject)
    changes = shapes or isinstance(subject.change, RowStatement) or (_demand(subject) and not _foreign_key(subject))
    return bool(subject.personal) and subject.has_credentials and changes


def _restricts(subject: Subject) -> bool:
    match subject.change:
        case GrantsChanged(removed=removed):
            return bool(removed)
        case TableOptionChanged(option=option):
            return option in ("row_security", "force_row_security")
        case DependentChanged(before=before, after=after):
            return "policy" in {item.kind for item in (before, after) if item is not None}
        case ObjectChanged() as change:
            return change.object_kind == "privileges"
        case _:
            return False


def _replaced(subject: Subject) -> bool:
    match subject.change:
        case ObjectChanged(before=before, after=after):
            return before is not None and after is not None and subject.change.object_kind != "comment"
        case TriggerChanged():
            return True
        case _:
            return False


def _big(subject: Subject) -> bool:
    return isinstance(subject.change, IndexAdded) and subject.table is not None and subject.table.rows >= BIG


def _columns_filled(subject: Subject) -> bool:
    return isinstance(subject.change, ColumnAdded) and subject.change.after.not_null


NO_DOWNTIME = "none: no statement may fail or wait"
SHORT = "none; single statements may wait for less than 0.1 s"
QUIET = "none; later queries may be slower"

RULES: tuple[RiskRule, ...] = (
    RiskRule(
        "personal-data-and-login", "CRITICAL",
        "People's data and the way they log in are in one table: an error locks them out, or shows what is nobody's "
        "business.",
        "Both shapes are kept in step and compared before anything goes; personal values are never shown or logged.",
        NO_DOWNTIME, _of_people_who_log_in,
    ),
    RiskRule(
        "table-dropped", "HIGH", "The rows are gone with it.",
        "Its writers are counted from the switch on; it is dropped in contract, after an approval.",
        NO_DOWNTIME, _is(TableDropped),
    ),
    RiskRule(
        "table-renamed", "HIGH", "Every statement with the old name would fail.",
        "A view keeps the old name until contract.", SHORT, _is(TableRenamed),
    ),
    RiskRule(
        "rows-changed", "HIGH", "Values of rows are overwritten, or rows go, while the application reads them.",
        "In batches, each row once; what was there is kept until contract, so that it can be brought back.",
        NO_DOWNTIME, _is(RowStatement),
    ),
    RiskRule(
        "column-dropped", "HIGH", "Its values are gone, and a statement that names it fails.",
        "It goes in contract, when no session of the old version writes any more.", NO_DOWNTIME, _is(ColumnDropped),
    ),
    RiskRule(
        "another-shape", "HIGH", "Two versions of the application write two shapes of the same rows.",
        "A trigger keeps them in step; they are compared row by row before the switch and before contract.",
        SHORT, _another_shape,
    ),
    RiskRule(
        "foreign-key", "MEDIUM", "It takes locks on two tables, and refuses or takes along rows of the application's.",
        "NOT VALID first, validated apart; one table's lock is never held while another one is waited for for long.",
        SHORT, _foreign_key,
    ),
    RiskRule(
        "new-demand", "HIGH", "A statement that was right fails from then on, and rows that are there may break it.",
        "The rows are looked at before; it comes in contract, when the version that need not keep to it is gone.",
        SHORT, _demand,
    ),
    RiskRule(
        "access", "HIGH", "Somebody may see less, or more, than before.",
        "What takes something away comes in contract; the statements are in the plan, word by word.",
        SHORT, _restricts,
    ),
    RiskRule(
        "replaced", "MEDIUM", "One definition serves both versions of the application.",
        "Replaced at the switch, in one transaction, with its privileges; the former one is in the way back.",
        SHORT, _replaced,
    ),
    RiskRule(
        "index-dropped", "MEDIUM", "Queries that used it become slow.",
        "Dropped last; going back builds it again.", QUIET, _is(IndexDropped),
    ),
    RiskRule(
        "constraint-dropped", "MEDIUM", "What it refused comes in, and then it cannot be brought back.",
        "It goes when the new version may come; going back validates it again, and says which rows are in the way.",
        SHORT, _is(ConstraintDropped),
    ),
    RiskRule(
        "column-filled", "MEDIUM", "Every row is to have a value.",
        "By the server's fast default, or in batches; NOT NULL by a validated check.", SHORT, _columns_filled,
    ),
    RiskRule(
        "default-changed", "MEDIUM", "A statement that leaves the column out writes another value.",
        "At the switch, or in contract where the old version relies on it.", SHORT, _is(ColumnChanged),
    ),
    RiskRule(
        "big-index", "MEDIUM", "The build reads a large table and writes much at a time: the disk is busy.",
        "CONCURRENTLY, within the maintenance window where there is one.", QUIET, _big,
    ),
    RiskRule(
        "addition", "LOW", "Nothing that is there changes.", "A short lock.", SHORT,
        _is(
            TableAdded, ColumnAdded, IndexAdded, IndexChanged, ConstraintAdded, ConstraintChanged, ObjectChanged,
            GrantsChanged, TableOptionChanged, DependentChanged,
        ),
    ),
)  # fmt: skip


def assess(
    changes: Sequence[Change], statements: Sequence[RowStatement], before: Catalog, personal: Collection[str]
) -> tuple[Risk, ...]:
    """Return the risk of every difference of the user's own making, the worst first.

    ``personal`` is ``schema.table.column``; columns that look personal by their names count too.
    """
    found = []
    added = {(item.table, item.after.name) for item in changes if isinstance(item, ColumnAdded)}
    for item in (*changes, *(statement for statement in statements if statement.number)):
        if getattr(item, "consequence", False):
            continue
        name = getattr(item, "table", None)
        table = before.table(name) if isinstance(name, TableName) else None
        new = frozenset(column for owner, column in added if owner == name)
        subject = Subject(item, table, _personal_of(table, personal), new)
        rule = next((rule for rule in RULES if rule.applies(subject)), None)
        if rule is not None:
            found.append(_risk(subject, rule))
    return tuple(sorted(found, key=lambda risk: LEVELS.index(risk.level)))


def worst(risks: Sequence[Risk]) -> RiskLevel:
    """Return the level of the whole; LOW where there is nothing."""
    return min((risk.level for risk in risks), key=LEVELS.index, default="LOW")


def _risk(subject: Subject, rule: RiskRule) -> Risk:
    touches = sorted(subject.touched & subject.personal)
    level = LEVELS[max(0, LEVELS.index(rule.level) - 1)] if touches else rule.level
    concerns = rule.concerns
    if touches:
        concerns += f" Personal data: {', '.join(map(display, touches))}."
    return Risk(
        rule=rule.id,
        level=level,
        what=_describe(subject.change),
        concerns=concerns,
        mitigation=rule.mitigation,
        tolerance=rule.tolerance,
    )


def _describe(change: Change | RowStatement) -> str:
    if isinstance(change, RowStatement):
        return f"{change.verb.upper()} of rows of {change.table} ({change.title})"
    return change.describe()


# ------------------------------------------------------------------------------------------------ personal data


def _personal_of(table: Table | None, named: Collection[str]) -> frozenset[str]:
    if table is None:
        return frozenset()
    return frozenset(
        column.name
        for column in table.columns
        if _qualified(table, column.name) in named or looks_personal(column.name)
    )


def _qualified(table: Table, column: str) -> str:
    return ".".join((*table.name, column))


def looks_personal(column: str) -> bool:
    """Whether a column's name is one that personal data usually has."""
    return _PERSONAL.search(column.lower()) is not None


def proposed(tables: Sequence[Table], personal: Collection[str]) -> tuple[Note, ...]:
    """Return the note that proposes columns for ``personal:``, as no note or one."""
    missing = [
        f"{table.name.name}.{column.name}"
        for table in tables
        for column in table.columns
        if looks_personal(column.name) and _qualified(table, column.name) not in personal
    ]
    if not missing:
        return ()
    return (
        Note(
            severity="INFO",
            text=f"By their names these columns hold personal data: {', '.join(missing)}. If so, name them in the spec "
            "(personal: […]): their values are then never shown, logged or sampled, nor their keys.",
        ),
    )
