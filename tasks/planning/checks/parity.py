"""Parity: the old shape of a table, projected through ``up``, against the new one, in one statement.

A row's shapes agree when ``down(new) = old`` or ``up(old) = new``: the side that wrote last decides, and what a lossy
mapping lost is not a difference. A row with one of the group's bits in the pending marker does not agree, and neither
expression is evaluated for it, so that a recorded failure is counted here instead of failing the statement. ``down`` is
asked first, and ``up`` only where it does not agree: what `down` rounded may be more than `up` can take.

The rows are cut into about 64 ranges of the key. For each, the sums of the rows' hashes on both sides are compared,
where the expected side of a row is the new shape if the shapes agree and ``up(old)`` otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from psycopg import sql

from tasks.planning.catalog import Column, Table
from tasks.planning.checks.rows import SAMPLE_SIZE, Heading, check_id, is_personal, key_columns, key_text
from tasks.planning.names import PENDING_COLUMN, display
from tasks.planning.plan import Assignment, Check, MappedGroup

RANGES = 64
"""As many as a person can look through, and enough to see whether differences are clustered."""

MIN_RANGE_ROWS = 1_000


def expanded(before: Table, added: Sequence[Column]) -> Table:
    """Return the table as it is between expand and contract: with the new columns and the pending marker."""
    marker = Column(name=PENDING_COLUMN, attnum=0, type="integer", not_null=True)
    names = {column.name for column in (*added, marker)}
    kept = (column for column in before.columns if column.name not in names)
    return before.model_copy(update={"columns": (*kept, *added, marker)})


def parity(group: MappedGroup, table: Table, *, personal: Collection[str] = (), left_out: int = 0) -> Check:
    """Return the check that all rows of the expanded ``table`` agree in the columns of ``group``.

    ``table`` has the columns of both shapes; a ValueError names the one that is missing. ``group`` has new columns.
    Rows with one of the marker's bits in ``left_out`` are not looked at.
    """
    key = key_columns(table)
    hashed = is_personal(table.name, key, personal)
    heading = Heading(
        id=check_id("parity", table.name, *group.new),
        kind="parity",
        title=f"{table.name}: {_listed(group.old)} and {_listed(group.new)} say the same in every row",
        severity="CRITICAL",
        table=table.name,
        corruption=True,
    )
    return heading.check(
        _PARITY.format(
            both=both_shapes(group, table, key, left_out=left_out),
            key=key_text([f"k{number}" for number in range(len(key))], qualifier="c", hashed=hashed),
            columns=sql.SQL(", ").join([*_positions(key), sql.SQL("pending")]),
            agrees=_agrees(group, table),
            expected=_names("u", len(group.up)),
            found=_names("n", len(group.up)),
            order=sql.SQL(", ").join(_positions(key)) if key else sql.SQL("NULL::int"),
            rows=sql.Literal(max(MIN_RANGE_ROWS, table.rows // RANGES)),
            # Without a key there are no ranges to speak of: the order differs from scan to scan.
            width=sql.SQL("1") if key else sql.SQL("0"),
            limit=sql.Literal(SAMPLE_SIZE),
        )
    )


def both_shapes(group: MappedGroup, table: Table, key: Sequence[str], *, left_out: int = 0) -> sql.Composable:
    """Return the SELECT of a row's two shapes: ``k…`` = its key, ``pending``, ``u…`` = up(old), ``n…`` = new,
    ``d…`` = down(new), ``o…`` = old.
    """
    pending = _pending(group, table)
    listed: list[sql.Composable] = [
        *(
            sql.SQL("{} AS {}").format(sql.Identifier(name), position)
            for name, position in zip(key, _positions(key), strict=True)
        ),
        sql.SQL("{} AS pending").format(pending),
        *_sides("u", "n", group.up, table, pending),
        *_sides("d", "o", group.down, table, pending),
    ]
    everything = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(listed), table.name.identifier)
    if not left_out:
        return everything
    return sql.SQL("{} WHERE ({} & {}) = 0").format(everything, sql.Identifier(PENDING_COLUMN), sql.Literal(left_out))


_PARITY = sql.SQL(
    "WITH ranges AS ("
    "SELECT c.range, count(*) AS evaluated, count(*) FILTER (WHERE NOT c.agrees) AS failing,"
    " count(*) FILTER (WHERE c.pending) AS pending, sum(c.expected) AS expected, sum(c.found) AS found,"
    " array_agg({key}) FILTER (WHERE NOT c.agrees AND c.nth <= {limit} AND {key} IS NOT NULL) AS sample"
    " FROM (SELECT b.*,"
    " (row_number() OVER w - 1) / {rows} * {width} AS range,"
    " count(*) FILTER (WHERE NOT b.agrees) OVER w AS nth"
    " FROM (SELECT {columns}, g.agrees, g.found,"
    " CASE WHEN g.agrees THEN g.found ELSE hashtextextended(ROW({expected})::text, 0) END AS expected"
    # OFFSET 0 keeps the planner from copying these expressions to every place that reads them.
    " FROM ({both}) AS a CROSS JOIN LATERAL"
    " (SELECT {agrees} AS agrees, hashtextextended(ROW({found})::text, 0) AS found OFFSET 0) AS g OFFSET 0) AS b"
    " WINDOW w AS (ORDER BY {order} ROWS UNBOUNDED PRECEDING)) AS c"
    " GROUP BY c.range)"
    " SELECT coalesce(sum(greatest(r.failing, (r.expected <> r.found)::int)), 0)::bigint AS failing,"
    " coalesce(sum(r.evaluated), 0)::bigint AS evaluated,"
    " coalesce((SELECT jsonb_agg(s.key) FROM"
    " (SELECT unnest(q.sample) AS key FROM ranges AS q ORDER BY q.range) AS s), '[]'::jsonb) AS sample,"
    " jsonb_build_object('ranges', count(*)::text,"
    " 'ranges that differ', (count(*) FILTER (WHERE r.expected <> r.found OR r.failing > 0))::text,"
    " 'pending', coalesce(sum(r.pending), 0)::text,"
    " 'checksum expected', coalesce(sum(r.expected), 0)::text,"
    " 'checksum found', coalesce(sum(r.found), 0)::text) AS observed"
    " FROM ranges AS r"
)


def _pending(group: MappedGroup, table: Table) -> sql.Composable:
    """Return the condition that one of the group's bits is set in a row; any bit, if the group has none of its own."""
    if table.column(PENDING_COLUMN) is None:
        return sql.SQL("false")
    marker = sql.Identifier(PENDING_COLUMN)
    if not group.bits:
        return sql.SQL("({} <> 0)").format(marker)
    return sql.SQL("({} & {} <> 0)").format(marker, sql.Literal(group.bits))


def _sides(
    computed: str, stored: str, assignments: Sequence[Assignment], table: Table, pending: sql.Composable
) -> Iterator[sql.Composable]:
    """Yield what an assignment would give, cast as storing it would, and what is stored."""
    for number, assignment in enumerate(assignments):
        column = _column(table, assignment.column)
        yield sql.SQL("CASE WHEN NOT {} THEN CAST(({}) AS {}) END AS {}").format(
            pending,
            sql.SQL(assignment.expression),
            sql.SQL(column.type),
            sql.Identifier(f"{computed}{number}"),
        )
        yield sql.SQL("{} AS {}").format(sql.Identifier(column.name), sql.Identifier(f"{stored}{number}"))


def _agrees(group: MappedGroup, table: Table) -> sql.Composable:
    # CASE, not OR: `up` is evaluated only for the rows where `down` does not agree.
    return sql.SQL("CASE WHEN pending THEN false WHEN {} THEN true ELSE {} END").format(
        agrees_by_down(group, table), _same("u", "n", group.up, table)
    )


def agrees_by_down(group: MappedGroup, table: Table) -> sql.Composable:
    """Return the condition, over `both_shapes`, that the old columns are what `down` makes of the new ones."""
    return _same("d", "o", group.down, table) if group.down else sql.SQL("false")


def _same(left: str, right: str, assignments: Sequence[Assignment], table: Table) -> sql.Composable:
    pairs = []
    for number, assignment in enumerate(assignments):
        # json, xml, point …: without an equality of their own, their text decides.
        form = "{} IS NOT DISTINCT FROM {}"
        if not _column(table, assignment.column).has_equality:
            form = "{}::text IS NOT DISTINCT FROM {}::text"
        pairs.append(sql.SQL(form).format(sql.Identifier(f"{left}{number}"), sql.Identifier(f"{right}{number}")))
    return sql.SQL("({})").format(sql.SQL(" AND ").join(pairs))


def _column(table: Table, name: str) -> Column:
    column = table.column(name)
    if column is None:
        raise ValueError(f"{table.name} is not expanded: it lacks {name}")
    return column


def _positions(key: Sequence[str]) -> list[sql.Identifier]:
    return [sql.Identifier(f"k{number}") for number in range(len(key))]


def _names(side: str, count: int) -> sql.Composable:
    return sql.SQL(", ").join(sql.Identifier(f"{side}{number}") for number in range(count))


def _listed(columns: Collection[str]) -> str:
    return ", ".join(display(column) for column in columns)
