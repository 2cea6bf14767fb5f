"""New demands on what is written, and keys and indexes that are missing, doubled or broken."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.planning import parser
from tasks.planning.catalog import Constraint, Index, Table
from tasks.planning.change import (
    ColumnChanged,
    ConstraintAdded,
    DependentChanged,
    IndexAdded,
    IndexDropped,
    ObjectChanged,
    TableAdded,
    TriggerChanged,
)
from tasks.planning.findings.moment import Moment
from tasks.planning.findings.rule import Hit, Rule
from tasks.planning.names import TableName, display
from tasks.planning.referring import finds_referring, search_of

_DEMANDS = frozenset({"check", "foreign_key", "unique", "primary_key", "exclusion"})
_NARROWS = ("C", "O")
"""ALTER DOMAIN … ADD CONSTRAINT and SET NOT NULL, in the parse tree."""


def _demand(moment: Moment) -> Iterator[Hit]:
    for change in moment.now.changes:
        match change:
            case ConstraintAdded(consequence=False, after=added) if added.kind in _DEMANDS:
                if _concerns_written(moment, change.table, added.columns) and not _takes_over(moment, change):
                    yield Hit(f"{display(added.name)} {added.definition} holds for {change.table}.", change.table)
            case ColumnChanged() if change.nullability_changed and change.after.not_null:
                # Without a scan, a validated CHECK has demanded it before.
                if moment.original_column(change.table, change.before) and change.table in moment.now.scans:
                    yield Hit(f"{change.table}.{display(change.after.name)} takes no NULL.", change.table)
            case IndexAdded(consequence=False, after=index) if index.unique:
                if _concerns_written(moment, change.table, index.columns):
                    yield Hit(f"The unique index {display(index.name)} holds for {change.table}.", change.table)
            case ObjectChanged(consequence=False, before=domain) if domain is not None and domain.kind == "domain":
                if moment.original_object(domain) and moment.kind == "alter_domain" and moment.node.subtype in _NARROWS:
                    yield Hit(f"The new rule of domain {domain.name} holds for every column of it.")
            case _:
                pass


def _intercepted(moment: Moment) -> Iterator[Hit]:
    for change in moment.now.changes:
        match change:
            case TriggerChanged(before=None, consequence=False, after=trigger) if trigger is not None:
                known = moment.original(change.table)
                if known is not None and trigger not in known.triggers:
                    yield Hit(f"Trigger {display(trigger.name)} runs in statements on {change.table}.", change.table)
            case DependentChanged(before=None, consequence=False, after=rule) if rule is not None:
                known = moment.original(change.table)
                if rule.kind == "rule" and known is not None and rule not in known.dependents:
                    yield Hit(f"Rule {display(rule.name)} rewrites statements on {change.table}.", change.table)
            case _:
                pass


def _concerns_written(moment: Moment, table: TableName, columns: tuple[str, ...]) -> bool:
    """Whether the running version writes one of the columns: one that was there before the file."""
    known = moment.now.after.table(table)
    if known is None or moment.original(table) is None:
        return False
    found = [item for item in known.columns if item.name in columns]
    return any(moment.original_column(table, item) for item in found)


def _takes_over(moment: Moment, change: ConstraintAdded) -> bool:
    """Whether the constraint is an index that was there: ADD CONSTRAINT … USING INDEX."""
    before, after = moment.now.before.table(change.table), moment.now.after.table(change.table)
    known = {index.oid for index in before.indexes} if before else set()
    return any(index.name == change.after.index and index.oid in known for index in (after.indexes if after else ()))


def _foreign_keys(moment: Moment) -> Iterator[tuple[TableName, Constraint]]:
    for change in moment.did(ConstraintAdded):
        if change.after.kind == "foreign_key" and not change.consequence:
            yield change.table, change.after
    for added in moment.did(TableAdded):
        yield from ((added.table, key) for key in added.after.constraints if key.kind == "foreign_key")


def _without_index(moment: Moment) -> Iterator[Hit]:
    for name, key in _foreign_keys(moment):
        table = _last(moment, name)
        if table is None or key.name not in {item.name for item in table.constraints}:
            continue
        if not any(finds_referring(search_of(index), key.columns) for index in table.indexes):
            columns = ", ".join(display(column) for column in key.columns)
            yield Hit(f"{name} has no index that begins with ({columns}).", name)


def _last(moment: Moment, name: TableName) -> Table | None:
    known = moment.now.after.table(name)
    return next((item for item in moment.end.tables if known and item.oid == known.oid), None)


def _other_type(moment: Moment) -> Iterator[Hit]:
    for name, key in _foreign_keys(moment):
        table, parent = moment.now.after.table(name), moment.now.after.table(key.references or name)
        if table is None or parent is None:
            continue
        for own, referenced in zip(key.columns, key.referenced_columns, strict=False):
            left, right = table.column(own), parent.column(referenced)
            if left and right and left.type != right.type:
                yield Hit(
                    f"{name}.{display(own)} is {left.type}, and {parent.name}.{display(referenced)} is {right.type}.",
                    name,
                )


def _redundant(moment: Moment) -> Iterator[Hit]:
    for change in moment.did(IndexAdded):
        if change.consequence:
            continue
        new, table = change.after, moment.now.after.table(change.table)
        for other in table.indexes if table else ():
            if other.name != new.name and other.valid and _covers(other, new):
                yield Hit(f"{display(new.name)} does nothing that {display(other.name)} does not.", change.table)


def _covers(other: Index, new: Index) -> bool:
    """Whether every query that the new index serves is served by the other one."""
    left, right = (parser.parse(index.definition)[0].node for index in (other, new))
    if new.unique or (left.access_method, right.access_method) != ("btree", "btree"):
        return False
    if left.HasField("where_clause") or right.HasField("where_clause") or right.index_including_params:
        return False
    plain = [item.index_elem.SerializeToString(deterministic=True) for item in right.index_params]
    known = [item.index_elem.SerializeToString(deterministic=True) for item in left.index_params]
    return all(item.index_elem.name for item in right.index_params) and known[: len(plain)] == plain


def _invalid_kept(moment: Moment) -> Iterator[Hit]:
    if moment.kind == "create_index" and moment.node.if_not_exists:
        for table in (*(moment.live.tables if moment.live else ()), *moment.now.before.tables):
            for index in table.indexes:
                if index.name == moment.node.idxname and not index.valid:
                    yield Hit(
                        f"{display(index.name)} of {table.name} is there and invalid: it is left as it is.", table.name
                    )
                    return


def _corrupting(moment: Moment) -> Iterator[Hit]:
    is_build = moment.kind in ("create_index", "reindex") and moment.now.statement.concurrent
    if is_build and 140000 <= moment.server_version < 140004:
        yield Hit(f"The server is PostgreSQL 14.{moment.server_version % 10000}.", next(iter(moment.now.own), None))


def _index_dropped(moment: Moment) -> Iterator[Hit]:
    if moment.kind == "drop_index" and not moment.now.statement.concurrent:
        for change in moment.did(IndexDropped):
            if moment.original(change.table):
                yield Hit(
                    f"DROP INDEX {display(change.before.name)} takes ACCESS EXCLUSIVE on {change.table}.", change.table
                )


def _narrow_key(moment: Moment) -> Iterator[Hit]:
    for change in moment.did(TableAdded):
        if key := change.after.primary_key:
            columns = (change.after.column(name) for name in key.columns)
            narrow = [
                item.name
                for item in columns
                if item and item.type in ("integer", "smallint") and _counts(item.default, item.identity)
            ]
            if narrow:
                yield Hit(f"The key {change.table}.{display(narrow[0])} ends at 2,147,483,647 or before.", change.table)


def _counts(default: str | None, identity: str) -> bool:
    return bool(identity) or (default or "").startswith("nextval(")


def _style(moment: Moment, *types: str) -> Iterator[tuple[TableName, str]]:
    for change in moment.did(TableAdded):
        for column in change.after.columns:
            if column.type.startswith(types):
                yield change.table, f"{change.table}.{display(column.name)} is {column.type}."


def _no_zone(moment: Moment) -> Iterator[Hit]:
    for table, text in _style(moment, "timestamp without", "timestamp("):
        if not text.endswith("with time zone."):
            yield Hit(text, table)


def _padded(moment: Moment) -> Iterator[Hit]:
    for table, text in _style(moment, "character("):
        yield Hit(text, table)


def _no_key(moment: Moment) -> Iterator[Hit]:
    for change in moment.did(TableAdded):
        if change.after.kind == "r" and change.after.partition_of is None:
            last = _last(moment, change.table)
            if last is not None and last.primary_key is None:
                yield Hit(f"{change.table} has no primary key.", change.table)


RULES = (
    Rule(
        id="new-demand",
        severity="WARNING",
        condition="A constraint, NOT NULL, a domain's rule or a unique index on what the running version writes.",
        effect="A statement of the running version that breaks it fails from now on, also where it is NOT VALID.",
        why="NOT VALID leaves out the rows that are there, not those that are written.",
        safe="contract: demands are made when only the new version runs, after an approval that names them.",
        bad="ALTER TABLE purchase ADD CONSTRAINT amount_positive CHECK (amount > 0) NOT VALID;",
        good=(
            "ALTER TABLE purchase ADD COLUMN pages integer;\n"
            "ALTER TABLE purchase ADD CONSTRAINT pages_positive CHECK (pages > 0) NOT VALID;",
        ),
        finds=_demand,
    ),
    Rule(
        id="writes-intercepted",
        severity="WARNING",
        condition="A trigger or a rule on a table that was there.",
        effect="It runs for the running version too: what it refuses fails, and what it changes is stored so.",
        why="The running version was never tried with it, and nothing in its code shows that it is there.",
        safe="contract: it comes when only the new version writes; or it lets pass whatever the old version writes.",
        bad="CREATE RULE purchase_kept AS ON DELETE TO purchase DO INSTEAD NOTHING;",
        good=(
            "CREATE TABLE visit (id bigint PRIMARY KEY);\n"
            "CREATE RULE visit_kept AS ON DELETE TO visit DO INSTEAD NOTHING;",
        ),
        finds=_intercepted,
    ),
    Rule(
        id="foreign-key-without-index",
        severity="WARNING",
        condition="A foreign key whose columns begin no index when the file is through.",
        effect="Every DELETE of a parent row, and every UPDATE of its key, reads the whole referring table.",
        why="PostgreSQL makes an index for the key that is referred to, none for the one that refers.",
        safe="constrain: CREATE INDEX CONCURRENTLY on the referring columns, before the foreign key.",
        bad="CREATE TABLE visit (id bigint PRIMARY KEY, customer_id bigint REFERENCES customer);",
        good=(
            (
                "CREATE TABLE visit (id bigint PRIMARY KEY, customer_id bigint REFERENCES customer);\n"
                "CREATE INDEX visit_customer ON visit (customer_id);"
            ),
        ),
        finds=_without_index,
    ),
    Rule(
        id="foreign-key-types-differ",
        severity="WARNING",
        condition="A foreign key between columns of different types.",
        effect="Values of the wider type cannot be referred to, and joins convert every row.",
        why="The key grows past the narrower type some day, and every INSERT of a reference fails from then on.",
        safe=(
            "Give both columns the same type before the foreign key; Lockstep changes a key with all that refers to it."
        ),
        bad="CREATE TABLE visit (id bigint PRIMARY KEY, customer_id integer REFERENCES customer);",
        good=("CREATE TABLE visit (id bigint PRIMARY KEY, customer_id bigint REFERENCES customer);",),
        finds=_other_type,
    ),
    Rule(
        id="index-redundant",
        severity="WARNING",
        condition="A new index whose columns begin another index of the table.",
        effect="Every write keeps one more index up to date, and no query gains.",
        why="An index on (a, b) serves queries on (a) as well.",
        safe="Leave it out.",
        bad="CREATE INDEX CONCURRENTLY purchase_again ON purchase (customer_id);",
        good=("CREATE INDEX CONCURRENTLY purchase_note ON purchase (note);",),
        finds=_redundant,
    ),
    Rule(
        id="invalid-index-kept",
        severity="CRITICAL",
        condition="CREATE INDEX … IF NOT EXISTS where an invalid index has that name.",
        effect="Nothing is built and nothing fails: the index stays invalid, costs every write, and serves no query.",
        why="A concurrent build that failed leaves its index behind, invalid. IF NOT EXISTS looks at the name only.",
        safe=(
            "DROP INDEX CONCURRENTLY, then CREATE INDEX CONCURRENTLY without IF NOT EXISTS; Lockstep does so by "
            "itself when a build has failed."
        ),
        bad="CREATE INDEX CONCURRENTLY IF NOT EXISTS purchase_note ON purchase (note);",
        good=("CREATE INDEX CONCURRENTLY IF NOT EXISTS purchase_amount ON purchase (amount);",),
        finds=_invalid_kept,
        setup=(
            "CREATE INDEX purchase_note ON purchase (note); UPDATE pg_index SET indisvalid = false WHERE indexrelid "
            "= 'purchase_note'::regclass;"
        ),
    ),
    Rule(
        id="concurrent-index-corrupts",
        severity="CRITICAL",
        condition="CREATE INDEX or REINDEX CONCURRENTLY on PostgreSQL 14.0 to 14.3.",
        effect="The index may miss rows: queries and unique constraints silently go wrong.",
        why="VACUUM removed rows that the build still needed (fixed in 14.4).",
        safe="Update to the newest 14 first, and REINDEX what was built concurrently before.",
        bad="CREATE INDEX CONCURRENTLY purchase_note ON purchase (note);",
        good=("ALTER TABLE purchase ADD COLUMN region text;",),
        finds=_corrupting,
        server_version=140002,
    ),
    Rule(
        id="index-dropped-under-lock",
        severity="WARNING",
        condition="DROP INDEX without CONCURRENTLY.",
        effect="Everybody who uses the table waits behind it until it gets its lock.",
        why="It is brief once it has the lock; it may wait long for it.",
        safe="contract: DROP INDEX CONCURRENTLY.",
        bad="DROP INDEX purchase_customer_state;",
        good=("DROP INDEX CONCURRENTLY purchase_customer_state;",),
        finds=_index_dropped,
    ),
    Rule(
        id="key-is-narrow",
        severity="INFO",
        condition="A new table whose primary key counts in integer or smallint.",
        effect="When the numbers are used up, every INSERT fails.",
        why="To widen a key later is a rewrite of the table and of all that refer to it.",
        safe="bigint.",
        bad="CREATE TABLE visit (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY);",
        good=("CREATE TABLE visit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);",),
        finds=_narrow_key,
    ),
    Rule(
        id="key-is-missing",
        severity="INFO",
        condition="A new table without a primary key.",
        effect="Rows cannot be named: no logical replication of updates, no batches by key.",
        why="A key is hard to add once there are duplicates.",
        safe="Give it a primary key.",
        bad="CREATE TABLE visit (at timestamptz);",
        good=("CREATE TABLE visit (id bigint PRIMARY KEY, at timestamptz);",),
        finds=_no_key,
    ),
    Rule(
        id="time-without-zone",
        severity="INFO",
        condition="A new table with a timestamp without time zone.",
        effect="What moment a value means depends on who wrote it.",
        why="The type keeps what the clock showed, not where.",
        safe="timestamptz.",
        bad="CREATE TABLE visit (id bigint PRIMARY KEY, at timestamp);",
        good=("CREATE TABLE visit (id bigint PRIMARY KEY, at timestamptz(3));",),
        finds=_no_zone,
    ),
    Rule(
        id="text-is-padded",
        severity="INFO",
        condition="A new table with a char(n) column.",
        effect="Values are filled up with spaces, which some comparisons ignore and others do not.",
        why="It saves nothing: text and varchar are stored as shortly.",
        safe="text, with a CHECK on its length where one is meant.",
        bad="CREATE TABLE visit (id bigint PRIMARY KEY, code char(3));",
        good=("CREATE TABLE visit (id bigint PRIMARY KEY, code text CHECK (length(code) = 3));",),
        finds=_padded,
    ),
)
