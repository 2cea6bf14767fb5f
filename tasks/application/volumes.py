"""What a drunk volume is in either shape of the drink-water schema, and what it becomes in the other.

This is the mapping of ``examples/drink-water/intake-v2.yaml`` written down a second time, in Python and by hand: a
witness that shared code with the migration would repeat the migration's mistakes.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Literal, NamedTuple, assert_never

ShapeName = Literal["old", "new"]
"""The columns an application version reads and writes: before the migration, or after it."""

ML_PER_OUNCE = Decimal("29.5735")


class OldVolume(NamedTuple):
    """``volume`` and ``volume_unit`` as an old-shape client writes them."""

    amount: int
    unit: str


class NewVolume(NamedTuple):
    """``volume_ml``, two decimals, as a new-shape client writes it."""

    millilitres: Decimal


Volume = OldVolume | NewVolume
"""A row's volume in the shape that wrote it last; the other shape's value follows from it."""


def as_new(volume: Volume) -> NewVolume:
    """Return what the new shape shows: exact when it wrote the row, the converted amount else."""
    match volume:
        case NewVolume():
            return volume
        case OldVolume(amount, unit):
            factor = ML_PER_OUNCE if unit == "OZ" else Decimal(1)
            return NewVolume((amount * factor).quantize(Decimal("0.01"), ROUND_HALF_UP))
    assert_never(volume)


def as_old(volume: Volume) -> OldVolume:
    """Return what the old shape shows: exact when it wrote the row, whole millilitres and at least one else."""
    match volume:
        case OldVolume():
            return volume
        case NewVolume(millilitres):
            return OldVolume(max(1, int(millilitres.quantize(Decimal(1), ROUND_HALF_UP))), "ML")
    assert_never(volume)


def written(before: Volume, after: Volume) -> Volume:
    """Return the row's volume after an UPDATE to ``after``.

    A statement that sets the value which its shape shows already changes nothing: 250.55 ml, shown as 251 in the
    old shape and set to 251 there, stays 250.55 ml.
    """
    shown = as_old(before) if isinstance(after, OldVolume) else as_new(before)
    return before if shown == after else after
