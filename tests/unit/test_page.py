"""The plan as a page: nothing from elsewhere, nothing that a plan's texts could run, and both pictures."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from tasks.planning.page import page
from tasks.planning.plan import Forecast, Plan, Risk
from tests.unit.test_report import EMPTY, HEADINGS, PLAN

RISKS = tuple(
    Risk(rule="r", level=level, what=f"{level} thing", concerns="c", mitigation="m", tolerance="none")
    for level in ("HIGH", "HIGH", "LOW")
)


class Reader(HTMLParser):
    """Collects tags with their attributes, and the text of headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self._in_heading = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_heading = tag in ("h1", "h2")
        if self._in_heading:
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_heading = self._in_heading and tag not in ("h1", "h2")

    def handle_data(self, data: str) -> None:
        if self._in_heading:
            self.headings[-1] += data


def test_it_has_the_headings_and_needs_nothing_beside_itself() -> None:
    read = Reader(page(PLAN))
    assert read.headings == [heading.lstrip("# ") for heading in HEADINGS]
    assert not {tag for tag, _ in read.tags} & {"script", "link", "img", "iframe", "object"}
    assert not [attributes for _, attributes in read.tags if {"src", "href"} & attributes.keys()]


def test_what_a_plan_says_is_text_and_no_html() -> None:
    text = "COMMENT ON TABLE t IS '</code><script>alert(1)</script>';"
    plan = PLAN.model_copy(update={"change": text, "why": "<img src=x onerror=alert(1)>", "name": "<b>"})
    assert not {tag for tag, _ in Reader(page(plan)).tags} & {"script", "img", "b"}


def test_the_timeline_draws_every_phase_as_long_as_it_may_take() -> None:
    steps = [
        phase.steps[0].model_copy(update={"forecast": Forecast(best=1, worst=10**n)})
        for n, phase in enumerate(PLAN.phases)
    ]
    phases = tuple(p.model_copy(update={"steps": (step,)}) for p, step in zip(PLAN.phases, steps, strict=True))
    bars = widths(PLAN.model_copy(update={"phases": phases}), "worst")
    assert len(bars) == len(phases)
    assert bars == sorted(bars)
    assert all(0 < best <= worst for best, worst in zip(widths(PLAN, "best"), widths(PLAN, "worst"), strict=True))


def widths(plan: Plan, kind: str) -> list[float]:
    return [float(width) for width in re.findall(rf'<rect class="{kind}" [^>]*width="([\d.]+)"', page(plan))]


def test_the_risks_are_counted_by_level() -> None:
    drawn = page(PLAN.model_copy(update={"risks": RISKS}))
    counts = dict(
        re.findall(r'class="name">(\w+)</span><span class="[^"]+" style="[^"]+"></span><span>(\d+)</span>', drawn)
    )
    assert counts == {"CRITICAL": "0", "HIGH": "2", "MEDIUM": "0", "LOW": "1"}
    assert 'class="risks"' not in page(PLAN)


def test_an_empty_plan_is_a_page_too() -> None:
    assert "Nothing to do" in page(EMPTY)
