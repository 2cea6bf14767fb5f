"""Comments that allow a finding and do not say why, or name no rule."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from tasks.planning.findings.moment import Moment
from tasks.planning.findings.rule import Hit, Rule


def _without_reason(moment: Moment) -> Iterator[Hit]:
    for item in moment.allowances:
        if item.ids and not item.reason:
            yield Hit(f"Line {item.line} allows {', '.join(item.ids)} and does not say why.")


def unknown_rule(moment: Moment, known: Collection[str]) -> Iterator[Hit]:
    """Find allowances that name what is none of the ``known`` rules."""
    for item in moment.allowances:
        if strange := [name for name in item.ids if name not in known]:
            yield Hit(f"Line {item.line} allows {', '.join(strange)}, and there is no such finding.")
        elif not item.ids:
            yield Hit(f"Line {item.line} does not say which finding it allows.")


RULES = (
    Rule(
        id="allowance-without-reason",
        severity="WARNING",
        condition="A comment lockstep:allow without the words because …",
        effect="It allows nothing.",
        why="Whoever reads the file later has to know whether the reason still holds.",
        safe="-- lockstep:allow ID because the table is written only by the nightly job",
        bad="-- lockstep:allow column-dropped\nALTER TABLE customer DROP COLUMN tier;",
        good=(
            (
                "-- lockstep:allow column-dropped because no version since 4.2 reads it\n"
                "ALTER TABLE customer DROP COLUMN tier;"
            ),
        ),
        finds=_without_reason,
    ),
)
