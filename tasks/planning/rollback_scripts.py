"""The three tiers of rolling back as scripts: each looks whether it is safe, acts, and looks whether it is done."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined

from tasks.planning.plan import Plan
from tasks.planning.recovery import Tier, tiers


def rollback_scripts(plan: Plan) -> Mapping[str, str]:
    """Return the files by name: a bash script a tier, and the reverse migration's spec where there is one."""
    found: dict[str, str] = {}
    environment = _environment()
    beginning = environment.get_template("beginning.sh.j2").render(plan=plan)
    for number, tier in enumerate(tiers(plan), start=1):
        if _has_script(plan, tier):
            name = f"{number}-{tier.name}.sh"
            found[name] = environment.get_template(f"{name}.j2").render(plan=plan, tier=tier, beginning=beginning)
    if found and plan.reverse:
        found[f"{plan.name}-reverse.yaml"] = plan.reverse
    return found


def _has_script(plan: Plan, tier: Tier) -> bool:
    return tier.name != "planned" or bool(plan.reverse)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tasks.planning", "templates/rollback"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - bash, not HTML; names are quoted by the filter
    )
    environment.filters["shell"] = shlex.quote
    return environment
