"""The page of the command line's commands, made from the commands themselves.

``python -m flows.command_pages > docs/commands.md`` writes it; a test compares.
"""

from __future__ import annotations

import sys
from typing import Any

import typer.main
from typer.testing import CliRunner

from flows.cli import app

WIDTH = 110

HEAD = """# Commands

Made by `python -m flows.command_pages`; what each command prints with `--help`.

A database is given by NAME: the environment variable `LOCKSTEP_<NAME>_URL` (upper case, `-` becomes `_`), or the Secret
block `lockstep-<name>` on the Prefect server of `PREFECT_API_URL`. It may be left out when the environment holds only
one, when the spec names it, and, where a command takes the NAME of a migration, when this user ran it before.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed, and safe: what happened, the state of the data, and what to do are on standard error |
| 2 | usage, or a spec that cannot be carried out; nothing was touched |
| 3 | waiting for an approval, the end of a soak or a maintenance window, or paused; the next command is printed |

With `--format json` one JSON document goes to standard output and everything else to standard error.
"""


def page() -> str:
    """Return the page as Markdown."""
    return "\n".join((HEAD, *(_section(name) for name in command_names())))


def command_names() -> tuple[str, ...]:
    """Return the commands in the order in which ``--help`` lists them."""
    group = typer.main.get_group(app)
    return tuple(group.commands)


def _section(name: str) -> str:
    context: dict[str, Any] = {"terminal_width": WIDTH, "max_content_width": WIDTH}
    told = CliRunner().invoke(app, [name, "--help"], prog_name="lockstep", **context)
    text = "\n".join(line.rstrip() for line in told.output.strip().splitlines())
    return f"## lockstep {name}\n\n```text\n{text}\n```\n"


if __name__ == "__main__":
    sys.stdout.write(page())
