"""Applying the rules to what was seen: the findings of every statement, and whether it is dangerous."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from tasks.planning.catalog import Catalog
from tasks.planning.facts import StatementFacts
from tasks.planning.findings.allowances import Allowance
from tasks.planning.findings.catalogue import RULES
from tasks.planning.findings.moment import Moment
from tasks.planning.findings.rule import Hit, Rule


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found at one statement."""

    rule: Rule
    hit: Hit
    allowed: str | None = None
    """The reason that a comment gives for allowing it."""

    @property
    def message(self) -> str:
        return f"{self.hit.what} {self.rule.effect}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One statement, judged."""

    facts: StatementFacts
    findings: tuple[Finding, ...]
    dangerous: bool
    """Long work while writes are blocked, or a break of the running application; a fact, also where it is allowed."""

    @property
    def stops(self) -> bool:
        """Whether something dangerous is left that nobody has allowed."""
        return any(finding.rule.dangerous and finding.allowed is None for finding in self.findings)

    @property
    def fails(self) -> bool:
        """Whether its file cannot be run."""
        return any(finding.rule.fails for finding in self.findings)


def judge(
    facts: Sequence[StatementFacts],
    allowances: Mapping[tuple[str, int], tuple[Allowance, ...]] | None = None,
    live: Catalog | None = None,
) -> tuple[Verdict, ...]:
    """Return a verdict for every statement.

    ``allowances`` are by file and position of the statement in it, from 0. ``live`` is the live database's catalog,
    where there is one: what a clone lacks (publications, the server's version, invalid indexes) is looked up there.
    """
    verdicts: list[Verdict] = []
    for name, group in groupby(facts, key=lambda item: item.file):
        file = tuple(group)
        for position, now in enumerate(file):
            noted = (allowances or {}).get((name, position), ())
            verdicts.append(_judged(Moment(now, file, live, noted)))
    return tuple(verdicts)


def _judged(moment: Moment) -> Verdict:
    allowed = {name: item.reason for item in moment.allowances if item.reason for name in item.ids}
    findings = tuple(
        # What cannot be run is not made to run by a comment.
        Finding(rule, hit, None if rule.fails else allowed.get(rule.id))
        for rule, hits in _found(moment).items()
        for hit in hits
    )
    breaks = any(finding.rule.dangerous for finding in findings)
    return Verdict(moment.now, findings, dangerous=breaks or (moment.works_while_blocking and not moment.now.refused))


def _found(moment: Moment) -> dict[Rule, tuple[Hit, ...]]:
    found = {rule: tuple(dict.fromkeys(hits)) for rule, hits in _all_hits(moment)}
    hit = {rule.id for rule, hits in found.items() if hits}
    return {rule: hits for rule, hits in found.items() if hits and not hit & set(rule.yields_to)}


def _all_hits(moment: Moment) -> Iterator[tuple[Rule, Iterator[Hit]]]:
    for rule in RULES:
        # Of a statement that was refused there is nothing to see but that.
        if moment.now.refused is None or rule.fails:
            yield rule, iter(rule.finds(moment))
