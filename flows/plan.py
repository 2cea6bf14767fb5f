"""`lockstep plan`: show how a migration would be carried out. Needs no Prefect, and changes nothing in the database."""

from __future__ import annotations

from pathlib import Path

from flows import console
from tasks.database.connection import connect
from tasks.database.ledger import Ledger
from tasks.databases import target_of
from tasks.plan_source import database_in, is_spec, make_plan
from tasks.planning.errors import SpecError
from tasks.planning.report import render
from tasks.planning.spec import load


def show(migration: str, database: str | None, folder: Path | None, form: str) -> int:
    """Print the plan as Markdown or JSON, and write both into ``folder`` if one is given."""
    if not is_spec(migration):
        raise SpecError(f"There is no file {migration!r}.", remedy="Give the path of a spec (YAML) or of a .sql file.")
    loaded = load(Path(migration))
    target = target_of(database or database_in(loaded))
    with connect(target, role="plan") as connection:
        stored = Ledger(connection).migration(loaded.spec.name)
    plan = make_plan(loaded, target, stored)
    text = render(plan)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{plan.name}.md").write_text(text)
        (folder / f"{plan.name}.json").write_text(plan.model_dump_json(indent=2) + "\n")
        console.err().print(f"Written: {folder / plan.name}.md and .json", markup=False)
    if form == "json":
        console.print_json(plan.model_dump(mode="json"))
    else:
        console.out().print(text, markup=False, highlight=False)
    return console.EXIT_DONE
