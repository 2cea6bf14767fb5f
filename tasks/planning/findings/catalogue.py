"""Every rule, in the order of docs/findings.md."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.planning.findings import allowing, breaks, demands, failing, rows, shape, work
from tasks.planning.findings.moment import Moment
from tasks.planning.findings.rule import Hit, Rule

_JUDGED = (
    ("Breaks of the running application", breaks.RULES),
    ("Long work while writes are blocked", work.RULES),
    ("Transactions and waiting", shape.RULES),
    ("Rows", rows.RULES),
    ("Demands, keys and indexes", demands.RULES),
    ("Statements that fail", failing.RULES),
)


def _unknown(moment: Moment) -> Iterator[Hit]:
    return allowing.unknown_rule(moment, BY_ID)


_ALLOWING = (
    *allowing.RULES,
    Rule(
        id="allowance-unknown",
        severity="WARNING",
        condition="A comment lockstep:allow that names no finding, or none that there is.",
        effect="It allows nothing.",
        why="A misspelt name would look like an allowance.",
        safe="-- lockstep:allow with an ID of this page.",
        bad=(
            "-- lockstep:allow column-droped because no version since 4.2 reads it\n"
            "ALTER TABLE customer DROP COLUMN tier;"
        ),
        good=(
            (
                "-- lockstep:allow column-dropped because no version since 4.2 reads it\n"
                "ALTER TABLE customer DROP COLUMN tier;"
            ),
        ),
        finds=_unknown,
    ),
)

SECTIONS: tuple[tuple[str, tuple[Rule, ...]], ...] = (*_JUDGED, ("Allowances", _ALLOWING))
RULES: tuple[Rule, ...] = tuple(rule for _, rules in SECTIONS for rule in rules)
BY_ID = {rule.id: rule for rule in RULES}
