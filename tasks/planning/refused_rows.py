"""Row changes that batches would carry out with another result than the statement has, or that nothing takes back.

Each is refused by name, with what to do instead; ``what`` names the statement. What the constraints of the table, and
those that refer to it, say decides.
"""

from __future__ import annotations

from collections.abc import Collection

from tasks.planning.catalog import Catalog, Table
from tasks.planning.errors import Unsupported
from tasks.planning.names import display


def refuse_cascades(what: str, table: Table, catalog: Catalog) -> None:
    """What ON DELETE takes along is kept by nobody."""
    for other in catalog.tables:
        for constraint in other.constraints:
            definition = constraint.definition
            if constraint.references == table.name and "ON DELETE " in definition:
                action = definition.split("ON DELETE ")[1].split(" DEFERRABLE")[0]
                if action.startswith(("CASCADE", "SET ")):
                    raise Unsupported(
                        f"{what}: rows of {other.name} go or change with them ({constraint.name}, ON DELETE "
                        f"{action}), and could not be brought back",
                        instead=f"DELETE the rows of {other.name} first, in a migration of its own, and drop that "
                        "constraint's action.",
                    )


def refuse_parents(what: str, table: Table, cleared: Collection[str]) -> None:
    """One statement may delete a row with those that refer to it; a batch that ends between them fails."""
    for constraint in table.constraints:
        if constraint.references == table.name and not set(cleared) & set(constraint.columns):
            listed = ", ".join(map(display, constraint.columns))
            raise Unsupported(
                f"{what}, whose rows refer to each other by {listed} ({display(constraint.name)}): a batch "
                "would fail on a row that one of a later batch refers to",
                instead="Let the rows that go refer to nothing first, in this change:  UPDATE … SET "
                f"{display(constraint.columns[0])} = NULL WHERE …;  with the condition of the DELETE.",
            )


def refuse_deferrable(what: str, table: Table, columns: Collection[str]) -> None:
    """Values may change places within a statement then; batch by batch they would meet."""
    for constraint in table.constraints:
        changed = sorted(set(constraint.columns) & set(columns))
        if constraint.kind in ("unique", "exclusion") and constraint.deferrable and changed:
            raise Unsupported(
                f"{what}, which changes {', '.join(map(display, changed))} under the DEFERRABLE constraint "
                f"{display(constraint.name)}: it is checked when the whole statement is through, and a batch is a "
                "statement of its own",
                instead="Drop the constraint in a migration before this one and add it again in one after it, or "
                "run the statement by itself.",
            )


def refuse_followers(what: str, table: Table, columns: Collection[str], catalog: Catalog) -> None:
    """What ON UPDATE SET NULL or SET DEFAULT overwrites is kept by nobody; CASCADE follows on the way back too."""
    left = [(table.name, frozenset(columns))]
    seen = set(left)
    while left:
        name, moved = left.pop()
        for other in catalog.tables:
            for constraint in other.constraints:
                pairs = zip(constraint.referenced_columns, constraint.columns, strict=False)
                hit = frozenset(own for theirs, own in pairs if theirs in moved)
                if constraint.references != name or not hit:
                    continue
                _, _, action = constraint.definition.partition(" ON UPDATE ")
                if action.startswith("SET "):
                    raise Unsupported(
                        f"{what}: rows of {other.name} lose their reference with it "
                        f"({display(constraint.name)}, ON UPDATE {' '.join(action.split()[:2])}), and could not "
                        "get it back",
                        instead=f"Give {display(constraint.name)} the action ON UPDATE CASCADE first, in a "
                        "migration of its own.",
                    )
                if action.startswith("CASCADE") and (other.name, hit) not in seen:
                    seen.add((other.name, hit))
                    left.append((other.name, hit))
