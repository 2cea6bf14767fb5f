"""docs/findings.md, made from the rules: ``python -m tasks.planning.findings.page > docs/findings.md``."""

from __future__ import annotations

import sys

from tasks.planning.findings.catalogue import SECTIONS
from tasks.planning.findings.rule import SCHEMA, Rule

_HEAD = """# Findings

Made by `python -m tasks.planning.findings.page` from the rules themselves. The tests run every example: the bad one
gives the finding, the good one does not.

What a statement locks, rewrites, reads and builds is not guessed from its text: it is run on a copy of the schema, and
PostgreSQL says what it did. A statement is **dangerous** when it rewrites a table, reads all of one or builds an index
while a lock that its transaction holds by then keeps writes waiting, or when it breaks the running application.

A finding is allowed by a comment at its statement that says why; without a reason it allows nothing:

```sql
-- lockstep:allow column-dropped because no version since 4.2 reads it
ALTER TABLE customer DROP COLUMN tier;
```

The comment stands above the statement, in it, or behind it on its last line; several IDs are divided by commas. What
cannot be run at all is not allowed by any comment. `dangerous` is a fact and stays true; the exit code is no longer 1.

`lockstep lint --format json` prints `{"statements": […]}`, each with

| key | what |
|---|---|
| `index`, `file`, `line`, `sql` | the statement; counted from 1 over all files |
| `in_transaction` | whether it runs in the file's transaction |
| `locks`, `index_locks` | its own locks on what was there before the file, by name; ACCESS SHARE is left out |
| `held` | the locks that its transaction has by then |
| `rewrites`, `index_builds`, `scans`, `validations` | its own work on every row: tables, indexes, tables, constraints |
| `findings` | `id`, `severity`, `message`, `safe`: what to do instead, `allowed`: the reason of a comment, or null |
| `dangerous` | see above |
| `error` | why the server refused it, or null; statements behind it are not in the document |
| `not_run` | why it was not run at all (it reaches beyond the database), or null |
| `seconds` | with `--database`, of each rewrite, build, scan: `work`, `table`, `best`, `worst`, `pace`, `known_by` |
| `source` | `measured`, or `guessed` where no server was there to run it |
"""


def page() -> str:
    """Return the page as Markdown."""
    parts = [_HEAD, _table()]
    for title, rules in SECTIONS:
        parts.append(f"## {title}\n")
        parts.extend(_entry(rule) for rule in rules)
    parts.append(f"## The schema of the examples\n\n```sql\n{SCHEMA}\n```\n")
    return "\n".join(parts)


def _table() -> str:
    lines = ["| finding | severity | dangerous | when |", "|---|---|---|---|"]
    for _, rules in SECTIONS:
        for rule in rules:
            when = rule.condition.replace("|", "\\|")
            mark = "the file cannot be run" if rule.fails else "yes" if rule.dangerous else ""
            lines.append(f"| [{rule.id}](#{rule.id}) | {rule.severity} | {mark} | {when} |")
    return "\n".join(lines) + "\n"


def _entry(rule: Rule) -> str:
    needs = f"With `{rule.setup}`:\n\n" if rule.setup else ""
    good = "\n\n-- in another file\n".join(rule.good)
    return (
        f"### {rule.id}\n\n"
        f"- **When:** {rule.condition}\n"
        f"- **Effect:** {rule.effect}\n"
        f"- **Why:** {rule.why}\n"
        f"- **Instead:** {rule.safe}\n\n"
        f"{needs}Bad:\n\n```sql\n{rule.bad}\n```\n\nGood:\n\n```sql\n{good}\n```\n"
    )


if __name__ == "__main__":
    sys.stdout.write(page())
