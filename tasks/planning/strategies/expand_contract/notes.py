"""What the plan warns of in the changed tables: it goes well, unless the application meets it unprepared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tasks.planning.catalog import Constraint
from tasks.planning.plan import Note
from tasks.planning.strategies.expand_contract.sequences import narrow_notes
from tasks.planning.strategies.expand_contract.work import Work


def warnings(works: Sequence[Work]) -> tuple[Note, ...]:
    return (*_trigger_notes(works), *_upsert_notes(works), *_sequence_notes(works))


def _trigger_notes(works: Sequence[Work]) -> Iterator[Note]:
    yield from (
        Note(
            severity="WARNING",
            text=f"{work.change.name} has the trigger {trigger.name}, which also fires for every row of the backfill "
            "(an updated_at column would move, an audit trail would grow).",
        )
        for work in works
        if work.is_filled
        for trigger in work.change.before.triggers
        if trigger.on_update
    )


def _upsert_notes(works: Sequence[Work]) -> Iterator[Note]:
    """While a unique constraint stands twice, ON CONFLICT names one of the two: PostgreSQL raises for the other.

    Measured: of 1,600 upserts each by four sessions on the same new keys, 9 of the old shape and 17 of the new.
    """
    yield from (
        Note(
            severity="WARNING",
            text=f"{work.change.name}: until {_until(work, constraint)} {constraint.name} exists for both shapes. "
            "Sessions that at the same moment INSERT … ON CONFLICT the same new key can get a unique_violation (23505) "
            "of the twin, which ON CONFLICT does not name: let the application try such a statement again.",
        )
        for work in works
        for constraint in work.change.coming_constraints
        if constraint.kind in ("unique", "primary_key") and set(constraint.columns) & work.change.mapped
    )


def _sequence_notes(works: Sequence[Work]) -> Iterator[Note]:
    yield from (
        note
        for work in works
        for note in narrow_notes(work.switched.after, {column.name for column in work.change.moved}, work.sequences[1])
    )


def _until(work: Work, constraint: Constraint) -> str:
    return "the switch" if work.change.moves(constraint.columns) else "contract"
