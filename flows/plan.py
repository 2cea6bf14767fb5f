"""`lockstep plan`: show how a migration would be carried out. Needs no Prefect, and changes nothing in the database."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flows import console
from tasks.database import runbook
from tasks.database.connection import connect
from tasks.database.ledger import Ledger
from tasks.databases import target_of
from tasks.flyway_source import with_its_files
from tasks.plan_source import choose_database, load_spec, make_plan
from tasks.planning.errors import RehearsalFailed
from tasks.planning.forecast import with_forecast
from tasks.planning.page import page
from tasks.planning.report import render
from tasks.planning.rollback_scripts import rollback_scripts
from tasks.planning.wording import counted
from tasks.survey import rehearsed, surveyed


def show(migration: str, database: str | None, folder: Path | None, form: str, rows: int | None = None) -> int:
    """Print the plan as Markdown or JSON, and write both and the runbook into ``folder`` if one is given.

    With ``rows`` it is rehearsed before, with as many made-up rows in the largest table; failed if that fails.
    """
    loaded = load_spec(migration)
    target = target_of(choose_database(loaded, database, console.note))
    with connect(target, role="plan") as connection:
        stored = Ledger(connection).migration(loaded.spec.name)
    loaded = with_its_files(loaded, target, stored)
    plan = make_plan(loaded, target, stored)
    seen = None if plan.is_empty else surveyed(loaded, target, plan, stored, console.note)
    if rows is not None:
        seen = rehearsed(seen, target, plan, stored, rows, console.note)
    if seen is not None:
        plan = with_forecast(plan, seen.expected)
    text = render(plan, seen)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{plan.name}.md").write_text(text)
        (folder / f"{plan.name}.html").write_text(page(plan, seen))
        (folder / f"{plan.name}.json").write_text(plan.model_dump_json(indent=2) + "\n")
        if seen is not None and seen.rehearsal is not None:
            told = seen.rehearsal.model_dump_json(indent=2)
            (folder / f"{plan.name}-rehearsal.json").write_text(told + "\n")
        scripts = _write(folder / f"{plan.name}-runbook", runbook.scripts(plan))
        scripts += _write(folder / f"{plan.name}-rollback", rollback_scripts(plan))
        beside = f", {counted(scripts, 'script')} to run by hand and to roll back" if scripts else ""
        console.err().print(f"Written: {folder / plan.name}.md, .html and .json{beside}", markup=False)
    if form == "json":
        console.print_json(plan.model_dump(mode="json"))
    else:
        console.out().print(text, markup=False, highlight=False)
    failure = seen.rehearsal.failure if seen is not None and seen.rehearsal is not None else ""
    if failure:
        raise RehearsalFailed(
            f"The rehearsal of {plan.name} failed on a clone: {failure}",
            remedy="Read the section Rehearsal of the plan. Rows there are made up: yours may be other ones.",
        )
    return console.EXIT_DONE


def _write(folder: Path, files: Mapping[str, str]) -> int:
    """Write files that may be run; return how many."""
    for name, text in files.items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        if name.endswith(".sh"):
            (folder / name).chmod(0o755)
    return len(files)
