"""Which index finds the rows that refer to a key: one answer for the catalog, the live facts and the findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tasks.planning import parser
from tasks.planning.catalog import Index
from tasks.planning.names import display


class Search(NamedTuple):
    """What an index can be searched by; an expression has an empty name, and ``predicate`` is as the server prints it.

    ``valid`` is False for what the planner does not use.
    """

    method: str
    columns: tuple[str, ...]
    predicate: str
    valid: bool


def search_of(index: Index) -> Search:
    """Return what an index of the catalog can be searched by, without INCLUDE.

    >>> search_of(Index(name="i", oid=1, columns=("a", "c", "b"),
    ...     definition="CREATE INDEX i ON s.t USING btree (a, lower(b)) INCLUDE (c) WHERE (a > 1)"))
    Search(method='btree', columns=('a', ''), predicate='(a > 1)', valid=True)
    """
    node = parser.parse(index.definition)[0].node
    columns = tuple(item.index_elem.name for item in node.index_params)
    # The server prints a predicate last.
    predicate = index.definition.rpartition(" WHERE ")[2] if node.HasField("where_clause") else ""
    return Search(node.access_method, columns, predicate, index.valid)


def finds_referring(index: Search, columns: Sequence[str]) -> bool:
    """Whether the index finds the rows that refer to a key: its first columns are the foreign key's, in any order.

    A predicate is in the way, but for IS NOT NULL of such a column: a row that refers to something fulfils it.
    """
    if not index.valid or index.method not in ("btree", "hash"):
        return False
    harmless = {"", *(f"({display(column)} IS NOT NULL)" for column in columns)}
    return set(index.columns[: len(columns)]) == set(columns) and index.predicate in harmless
