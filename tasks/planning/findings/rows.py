"""Statements over rows: changes of all of them at once, lost ones, and statistics that are missing afterwards."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.planning import parser
from tasks.planning.catalog import Table
from tasks.planning.change import ColumnChanged, IndexAdded
from tasks.planning.facts import StatementFacts
from tasks.planning.findings.moment import Moment
from tasks.planning.findings.rule import Hit, Rule
from tasks.planning.names import TableName, display
from tasks.planning.parse_tree import Node, choice

_CONSTANTS = frozenset({"a_const", "type_cast", "param_ref"})
_WITH = frozenset({"select", "insert", "update", "delete", "merge"})
_EQUAL = frozenset({"AEXPR_OP", "AEXPR_IN", "AEXPR_OP_ANY", "AEXPR_NOT_DISTINCT"})


def unbatched(moment: Moment) -> tuple[Table, ...]:
    """Return the tables that were there and of which it changes or deletes more rows than one key names."""
    written = (_changed(moment, node) for node in _row_changes(moment) if not _is_keyed(moment, node))
    return tuple(table for table in written if table is not None and moment.original(table.name))


def _row_changes(moment: Moment) -> Iterator[Node]:
    """Yield every UPDATE, DELETE, and MERGE that does either: the statement itself, and those in its WITH."""
    if moment.kind in _WITH:
        for item in moment.node.with_clause.ctes:
            query = item.common_table_expr.ctequery
            name = query.WhichOneof("node")
            if _changes_rows(name.removesuffix("_stmt"), getattr(query, name)):
                yield getattr(query, name)
        if _changes_rows(moment.kind, moment.node):
            yield moment.node


def _changes_rows(verb: str, node: Node) -> bool:
    if verb == "merge":
        clauses = (item.merge_when_clause for item in node.merge_when_clauses)
        return any(choice(clause, "command_type") in ("CMD_UPDATE", "CMD_DELETE") for clause in clauses)
    return verb in ("update", "delete")


def _is_keyed(moment: Moment, node: Node) -> bool:
    table = _changed(moment, node)
    condition = node.join_condition if type(node).__name__ == "MergeStmt" else node.where_clause
    given = frozenset(_given(condition, node.relation.alias.aliasname or node.relation.relname))
    keys = (item for item in (table.constraints if table else ()) if item.kind in ("primary_key", "unique"))
    return any(set(key.columns) <= given for key in keys)


def _changed(moment: Moment, node: Node) -> Table | None:
    """Return the table that a data statement changes, by its lock where no schema is written."""
    written = TableName(node.relation.schemaname, node.relation.relname)
    if written.schema:
        return moment.now.before.table(written)
    # Its own lock is not told where its transaction has a stronger one.
    locks = {**moment.now.held, **moment.now.own}
    locked = [name for name, mode in locks.items() if name.name == written.name and mode != "ACCESS SHARE"]
    return moment.now.before.table(locked[0]) if locked else None


def _given(condition: Node, table: str) -> Iterator[str]:
    """Yield the table's columns that a condition sets equal to a constant, or to one of a list of constants.

    ``table`` is what the statement calls it. A key's column without a name before it is its own: PostgreSQL refuses one
    that another table of the statement has too.
    """
    match condition.WhichOneof("node"):
        case "bool_expr" if choice(condition.bool_expr, "boolop") == "AND_EXPR":
            for part in condition.bool_expr.args:
                yield from _given(part, table)
        # IS DISTINCT FROM has the same operator in the tree.
        case "a_expr" if condition.a_expr.name[0].string.sval == "=" and choice(condition.a_expr, "kind") in _EQUAL:
            left, right = condition.a_expr.lexpr, condition.a_expr.rexpr
            values = right.list.items if right.WhichOneof("node") == "list" else [right]
            if left.WhichOneof("node") == "column_ref" and all(v.WhichOneof("node") in _CONSTANTS for v in values):
                *qualifier, column = (field.string.sval for field in left.column_ref.fields)
                if not qualifier or qualifier[-1] == table:
                    yield column
        case _:
            return


def _unbatched(moment: Moment) -> Iterator[Hit]:
    for table in unbatched(moment):
        every = moment.kind in ("update", "delete") and not moment.node.HasField("where_clause")
        which = "all rows" if every else "the rows that it finds"
        yield Hit(f"{moment.kind.upper()} changes {which} of {table.name} in one transaction.", table.name)


def _unanalyzed(moment: Moment) -> Iterator[Hit]:
    reasons: dict[TableName, str] = {}
    for change in moment.did(ColumnChanged):
        if change.retyped and change.table in moment.now.rewrites:
            reasons[change.table] = f"the new type of {display(change.before.name)}"
    for added in moment.did(IndexAdded):
        if _has_expression(added.after.definition):
            reasons[added.table] = f"the expression of {display(added.after.name)}"
    for table in unbatched(moment):
        reasons[table.name] = "the changed rows"
    analyzed = [_analyzed(facts) for facts in moment.after if facts.statement.kind == "analyze"] if reasons else []
    for name in moment.originals(reasons):
        if any(name.name in names or not names for names in analyzed):
            continue
        yield Hit(f"PostgreSQL knows nothing of {reasons[name]} on {name} until ANALYZE.", name)


def _analyzed(facts: StatementFacts) -> frozenset[str]:
    """Return the tables that an ANALYZE names; none is all of them."""
    return frozenset(item.vacuum_relation.relation.relname for item in parser.parse(facts.statement.sql)[0].node.rels)


def _has_expression(definition: str) -> bool:
    parameters = parser.parse(definition)[0].node.index_params
    return any(not item.index_elem.name for item in parameters)


def _emptied(moment: Moment) -> Iterator[Hit]:
    if moment.kind == "truncate" and (lost := moment.originals(moment.blocked_by_itself)):
        yield Hit(f"TRUNCATE removes every row of {', '.join(map(str, lost))}.", lost[0])


def _emptied_too(moment: Moment) -> Iterator[Hit]:
    if moment.kind == "truncate" and choice(moment.node, "behavior") == "DROP_CASCADE":
        emptied = moment.originals(moment.blocked_by_itself)
        if more := [table for table in emptied if not _is_named(moment, table)]:
            yield Hit(f"CASCADE empties {', '.join(map(str, more))} as well.", more[0])


def _is_named(moment: Moment, name: TableName) -> bool:
    """Whether a TRUNCATE names the table, or one that it is a part of."""
    named = (item.range_var for item in moment.node.relations)
    if any(item.relname == name.name and item.schemaname in ("", name.schema) for item in named):
        return True
    table = moment.now.before.table(name)
    parents = () if table is None else (*filter(None, (table.partition_of,)), *table.inherits)
    return any(_is_named(moment, parent) for parent in parents)


def _opaque(moment: Moment) -> Iterator[Hit]:
    if moment.kind in ("do", "call"):
        yield Hit(f"{moment.kind.upper()} runs code: what it did was seen on a copy without rows.")


RULES = (
    Rule(
        id="data-change-unbatched",
        severity="WARNING",
        condition="UPDATE, DELETE or MERGE of more rows than a key names.",
        effect=(
            "Every changed row stays locked to the end, the table grows by as many rows, and VACUUM and standbys "
            "fall behind; whoever writes one of the rows waits."
        ),
        why="One transaction over many rows holds all their locks and keeps every older row version alive.",
        safe=(
            "backfill: batches by key, each committed by itself, slowed down by lag and load; old values are kept "
            "until contract."
        ),
        bad="UPDATE purchase SET note = '' WHERE note IS NULL;",
        good=("UPDATE purchase SET note = '' WHERE id IN (1, 2, 3);",),
        finds=_unbatched,
    ),
    Rule(
        id="analyze-missing",
        severity="INFO",
        condition=(
            "A rewritten column, an index on an expression, or many changed rows, without ANALYZE after it in the file."
        ),
        effect="Until autovacuum comes by, queries are planned without statistics, or with wrong ones.",
        why="A new type drops the column's statistics, and an expression has none before ANALYZE.",
        safe="constrain: ANALYZE of the table before anybody uses the new shape.",
        bad="CREATE INDEX CONCURRENTLY customer_email_lower ON customer (lower(email));",
        good=("CREATE INDEX CONCURRENTLY customer_name ON customer (name);",),
        finds=_unanalyzed,
    ),
    Rule(
        id="table-emptied",
        severity="CRITICAL",
        dangerous=True,
        condition="TRUNCATE of a table that was there.",
        effect="The rows are gone for the running application, at once and for good.",
        why="TRUNCATE takes ACCESS EXCLUSIVE, fires no row triggers, and cannot be taken back after the commit.",
        safe=(
            "Take a copy, and run it by itself when the application no longer needs the rows; DELETE in a change is "
            "carried out in batches (backfill), and taken back by a rollback."
        ),
        bad="TRUNCATE event_2024;",
        good=("DELETE FROM archive.purchase WHERE id = 1;",),
        finds=_emptied,
    ),
    Rule(
        id="truncate-cascades",
        severity="CRITICAL",
        dangerous=True,
        condition="TRUNCATE … CASCADE reaches tables that it does not name.",
        effect="Tables that refer to the named one lose all their rows too.",
        why="CASCADE follows foreign keys, however many, whether or not a row refers to anything.",
        safe="Name every table that is meant, without CASCADE.",
        bad="TRUNCATE customer CASCADE;",
        good=("TRUNCATE event_2024;",),
        finds=_emptied_too,
    ),
    Rule(
        id="opaque-block",
        severity="WARNING",
        condition="DO or CALL.",
        effect="A loop over rows does nothing on a copy without rows, so its locks and its time are not known.",
        why="What a block does may depend on the rows that it finds; its text does not say it.",
        safe=(
            "Write the schema statements that it would run, and UPDATE or DELETE for rows: these are planned and "
            "batched."
        ),
        bad="DO $$ BEGIN UPDATE purchase SET note = '' WHERE note IS NULL; END $$;",
        good=("UPDATE purchase SET note = '' WHERE id = 1;",),
        finds=_opaque,
    ),
)
