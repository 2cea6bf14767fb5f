"""The plan document as one HTML page that needs nothing beside itself: the text, the timeline and the risks drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files

from markdown_it import MarkdownIt

from tasks.planning import report
from tasks.planning.plan import Phase, Plan, Risk, RiskLevel
from tasks.planning.risks import LEVELS
from tasks.planning.today import Survey
from tasks.planning.wording import forecast

_STYLE = (files("tasks.planning") / "templates" / "page.css").read_text()
_DESIGN, _RISKS = "<h2>Migration Strategy Design</h2>", "<h2>Risk Mitigation &amp; Rollback Plan</h2>"
_WIDTH, _ROW, _LABEL, _TAIL = 820, 26, 90, 150
"""The last is for what is written behind the last bar."""
LEAST_SHARE = 0.01
"""Of the timeline's width, so that a phase of milliseconds is seen beside one of hours."""


def page(plan: Plan, survey: Survey | None = None) -> str:
    """Return the page; what it says is what `report.render` says."""
    # Without html=True raw HTML in a plan's texts (a comment, a literal) stays text.
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(report.render(plan, survey))
    body = body.replace(_DESIGN, _DESIGN + _timeline(plan.phases), 1)
    body = body.replace(_RISKS, _RISKS + _picture(plan.risks), 1)
    title = escape(f"{plan.name} on {plan.database}")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def _timeline(phases: Sequence[Phase]) -> str:
    """Draw the phases one below the other: best case dark, worst case light, gates as marks, waits as a dashed line."""
    if not phases:
        return ""
    totals = [report.total([phase]) for phase in phases]
    whole = sum(total.worst for total in totals) or 1.0
    least = LEAST_SHARE * _WIDTH
    scale = (_WIDTH - _LABEL - least * len(phases) - _TAIL) / whole
    parts, left = [], float(_LABEL)
    for number, (phase, total) in enumerate(zip(phases, totals, strict=True)):
        top = 8 + number * _ROW
        worst, best = least + total.worst * scale, least + total.best * scale
        parts.append(f'<text x="0" y="{top + 13}">{escape(phase.name)}</text>')
        if phase.approval is not None or phase.gate_before is not None:
            parts.append(f'<line class="wait" x1="{left:.1f}" y1="{top - 4}" x2="{left:.1f}" y2="{top + 20}"/>')
        parts.append(f'<rect class="worst" x="{left:.1f}" y="{top}" width="{worst:.1f}" height="16"/>')
        parts.append(f'<rect class="best" x="{left:.1f}" y="{top}" width="{best:.1f}" height="16"/>')
        if phase.gate_after is not None:
            parts.append(f'<circle class="gate" cx="{left + worst:.1f}" cy="{top + 8}" r="5"/>')
        parts.append(f'<text x="{left + worst + 9:.1f}" y="{top + 13}">{escape(forecast(total))}</text>')
        left += worst
    height = 16 + _ROW * len(phases)
    return (
        f'<svg class="timeline" role="img" aria-label="Timeline of the phases" viewBox="0 0 {_WIDTH} {height}">'
        f'{"".join(parts)}</svg>\n<p class="legend">dark: best case; light: worst case; dot: gate; '
        "dashed: a gate or an approval before it begins; waiting and soak are not drawn</p>\n"
    )


def _picture(risks: Sequence[Risk]) -> str:
    """Draw how many differences have which level."""
    if not risks:
        return ""
    counts = Counter(risk.level for risk in risks)
    return f'<div class="risks">{"".join(_bars(counts))}</div>\n'


def _bars(counts: Counter[RiskLevel]) -> Iterator[str]:
    most = max(counts.values())
    for level in LEVELS:
        share = 100 * counts[level] / most
        yield (
            f'<div class="level"><span class="name">{level}</span><span class="bar {level.lower()}" '
            f'style="width:{share * 0.6:.0f}%"></span><span>{counts[level]}</span></div>'
        )
