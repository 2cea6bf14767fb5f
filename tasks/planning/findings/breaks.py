"""Breaks of the running application: what its statements name is gone, has another name, or is refused."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.planning.catalog import Catalog, Column, SchemaObject, Table
from tasks.planning.change import (
    ColumnAdded,
    ColumnChanged,
    ColumnDropped,
    ConstraintDropped,
    DependentChanged,
    ObjectChanged,
    TableDropped,
    TableOptionChanged,
    TableRenamed,
    TriggerChanged,
)
from tasks.planning.findings.moment import Moment
from tasks.planning.findings.rule import Hit, Rule
from tasks.planning.names import TableName, display, relation_name
from tasks.planning.parse_tree import choice, walk

_OLD_FAILS = "Statements of the running version that name it fail from the commit on."
_VIEWS = frozenset({"view", "materialized view"})
_SCHEMA_KINDS = frozenset({"drop_schema", "rename_schema"})


def _column_renamed(moment: Moment) -> Iterator[Hit]:
    for change in moment.did(ColumnChanged):
        if change.renamed and moment.original_column(change.table, change.before):
            table = moment.at_end(change.table)
            # The name may have been given to another column meanwhile.
            if table is None or table.column(change.before.name) is None:
                names = f"{change.table}.{display(change.before.name)} becomes {display(change.after.name)}"
                yield Hit(f"{names}.", change.table)


def _column_dropped(moment: Moment) -> Iterator[Hit]:
    for change in moment.did(ColumnDropped):
        if moment.original_column(change.table, change.before):
            yield Hit(f"{change.table}.{display(change.before.name)} and its values are gone.", change.table)


def _table_renamed(moment: Moment) -> Iterator[Hit]:
    for change in moment.did(TableRenamed):
        old = moment.original(change.table)
        if old is None or moment.kind in _SCHEMA_KINDS:
            continue
        there = _columns_of(moment.end, change.table)
        if there is None:
            yield Hit(f"{change.table} becomes {change.after}.", change.table)
        elif missing := _missing(_printed(old), there):
            lost = ", ".join(missing)
            yield Hit(
                f"{change.table} becomes {change.after}; what takes its name has not {lost} as it had.", change.table
            )


def _columns_of(catalog: Catalog, name: TableName) -> tuple[str, ...] | None:
    """Return the columns of the table or view of that name, as `SchemaObject.columns` has them; None without one."""
    table = catalog.table(name)
    if table is not None:
        return _printed(table)
    return next((item.columns for item in catalog.objects if item.kind in _VIEWS and item.name == str(name)), None)


def _printed(table: Table) -> tuple[str, ...]:
    return tuple(f"{column.name}\t{column.type}" for column in table.columns)


def _table_dropped(moment: Moment) -> Iterator[Hit]:
    for change in moment.did(TableDropped):
        if moment.kind not in _SCHEMA_KINDS and moment.original(change.table):
            yield Hit(f"{change.table} and its rows are gone.", change.table)


def _partition_detached(moment: Moment) -> Iterator[Hit]:
    for name in moment.now.own:
        places = (
            moment.original(name),
            moment.now.before.table(name),
            moment.now.after.table(name),
            moment.at_end(name),
        )
        match [table.partition_of for table in places if table is not None]:
            case [TableName(), TableName() as parent, None, None]:
                yield Hit(f"{name} is no longer part of {parent}.", name)
            case _:
                pass


def _schema_gone(moment: Moment) -> Iterator[Hit]:
    if moment.kind in _SCHEMA_KINDS:
        gone = {table.name.schema for table in moment.start.tables} - {table.name.schema for table in moment.end.tables}
        for schema in sorted(gone):
            tables = [table.name.name for table in moment.start.tables if table.name.schema == schema]
            yield Hit(f"Schema {display(schema)} with {', '.join(tables[:5])}{' …' * (len(tables) > 5)} is gone.")


def _default_dropped(moment: Moment) -> Iterator[Hit]:
    for change in moment.did(ColumnChanged):
        if moment.original_column(change.table, change.before) is None:
            continue
        if _fills_itself(change.before) and not _fills_itself(change.after):
            table = moment.at_end(change.table)
            last = next((item for item in table.columns if item.attnum == change.after.attnum), None) if table else None
            if last is not None and not _fills_itself(last):
                result = "fails" if last.not_null else "writes NULL"
                name = f"{change.table}.{display(change.after.name)}"
                yield Hit(f"An INSERT that does not name {name} {result} from the commit on.", change.table)


def _fills_itself(column: Column) -> bool:
    return bool(column.default is not None or column.identity or column.generated)


def _required(moment: Moment) -> Iterator[Hit]:
    for change in moment.did(ColumnAdded):
        if change.after.not_null and not _fills_itself(change.after) and moment.original(change.table):
            # Whatever the file does to it later: where there are rows, it does not come so far.
            name = f"{change.table}.{display(change.after.name)}"
            yield Hit(f"{name} is NOT NULL and has no default.", change.table)


def _objects(moment: Moment, *kinds: str) -> Iterator[tuple[SchemaObject, SchemaObject | None]]:
    """Yield objects that were there before the file and change now, with what they are when it is through."""
    for change in moment.did(ObjectChanged):
        if change.before is None or change.consequence:
            continue
        before = change.before
        if before.kind in kinds and moment.original_object(before):
            # By name: what is dropped and made again in one file is another object of the same use.
            last = next(
                (item for item in moment.end.objects if (item.kind, item.name) == (before.kind, before.name)), None
            )
            yield before, last


def _view_gone(moment: Moment) -> Iterator[Hit]:
    if moment.kind in _SCHEMA_KINDS:
        return
    for before, last in _objects(moment, *_VIEWS):
        if last is None:
            if moment.end.table(relation_name(before.name)) is None:
                yield Hit(f"{before.kind} {before.name} is gone.")
        elif missing := _missing(before.columns, last.columns):
            yield Hit(f"{before.kind} {before.name} no longer has {', '.join(missing)} as before.")


def _missing(before: tuple[str, ...], after: tuple[str, ...]) -> list[str]:
    return [column.split("\t")[0] for column in before if column not in after]


def _view_replaced(moment: Moment) -> Iterator[Hit]:
    for before, last in _objects(moment, *_VIEWS):
        if last is not None and last.definition != before.definition and not _missing(before.columns, last.columns):
            yield Hit(f"{before.kind} {before.name} has another query.")


def _object_gone(moment: Moment) -> Iterator[Hit]:
    if moment.kind in _SCHEMA_KINDS:
        return
    kinds = ("function", "procedure", "aggregate", "sequence", "enum", "domain", "composite type", "range")
    for before, last in _objects(moment, *kinds):
        if last is None:
            yield Hit(f"{before.kind} {before.name} is gone, or has another name.")


def _label_renamed(moment: Moment) -> Iterator[Hit]:
    if moment.kind == "alter_enum" and moment.node.old_val and any(_objects(moment, "enum")):
        yield Hit(f"The label {moment.node.old_val!r} becomes {moment.node.new_val!r}.")


def _revoked(moment: Moment) -> Iterator[Hit]:
    if moment.kind in ("grant", "grant_role") and not moment.node.is_grant and not _is_of_the_file(moment):
        yield Hit("Privileges are taken away.", next(iter(moment.now.statement.tables), None))


def _is_of_the_file(moment: Moment) -> bool:
    """Whether a REVOKE names only tables and functions that the file has made."""
    if moment.kind != "grant" or choice(moment.node, "targtype") != "ACL_TARGET_OBJECT":
        return False
    made = _names(moment.now.before) - _names(moment.start)
    for item in moment.node.objects:
        match item.WhichOneof("node"):
            case "range_var":
                name = item.range_var.relname
            case "object_with_args":
                name = item.object_with_args.objname[-1].string.sval
            case _:
                return False
        if name not in made:
            return False
    return True


def _names(catalog: Catalog) -> frozenset[str]:
    """Return the names of all tables and objects, without schema and arguments."""
    return frozenset((*(table.name.name for table in catalog.tables), *map(_bare, catalog.objects)))


def _bare(item: SchemaObject) -> str:
    return relation_name(item.name.split("(")[0]).name


def _row_security(moment: Moment) -> Iterator[Hit]:
    for change in moment.did(TableOptionChanged):
        is_on = change.option in ("row_security", "force_row_security")
        if is_on and str(change.after).lower() == "true" and (table := moment.at_end(change.table)):
            policies = any(item.kind == "policy" for item in table.dependents)
            shown = "the rows that its policies let through" if policies else "no row at all"
            yield Hit(f"Roles that do not own {change.table} see {shown}.", change.table)


def _published(moment: Moment, table: TableName) -> tuple[str, ...]:
    live = moment.live.table(table) if moment.live else None
    known: tuple[Table | None, ...] = (live, moment.original(table))
    found = (item.name for place in known if place for item in place.dependents if item.kind == "publication")
    return tuple(dict.fromkeys(found))


def _identity_lost(moment: Moment) -> Iterator[Hit]:
    changed: tuple[ConstraintDropped | TableOptionChanged, ...] = (
        *moment.did(ConstraintDropped),
        *moment.did(TableOptionChanged),
    )
    for change in changed:
        if moment.original(change.table) is None:
            continue
        published, last = _published(moment, change.table), moment.at_end(change.table)
        lost = last is not None and (
            last.replica_identity == "n" or (last.replica_identity == "d" and last.primary_key is None)
        )
        if published and lost:
            yield Hit(f"{change.table}, which {', '.join(published)} publishes, has no replica identity.", change.table)


def _cascades(moment: Moment) -> Iterator[Hit]:
    if moment.kind.startswith(("drop_", "alter_")) and any(
        "behavior" in message.DESCRIPTOR.fields_by_name and choice(message, "behavior") == "DROP_CASCADE"
        for message in walk(moment.node)
    ):
        words = {value for message in walk(moment.node) for _, value in message.ListFields() if isinstance(value, str)}
        more = [text for name, text in _dropped(moment) if name not in words]
        if more:
            yield Hit(f"CASCADE drops {', '.join(more[:10])}{' …' * (len(more) > 10)} as well.")


def _dropped(moment: Moment) -> Iterator[tuple[str, str]]:
    """Yield the name, and a description, of everything that the statement drops."""
    for change in moment.now.changes:
        match change:
            case TableDropped():
                yield change.table.name, f"table {change.table}"
            case ColumnDropped():
                yield change.before.name, f"column {change.table}.{display(change.before.name)}"
            case ConstraintDropped(consequence=False):
                yield change.before.name, f"constraint {display(change.before.name)} of {change.table}"
            case TriggerChanged(after=None, consequence=False, before=trigger) if trigger is not None:
                yield trigger.name, f"trigger {display(trigger.name)} of {change.table}"
            case DependentChanged(after=None, consequence=False, before=item) if item is not None:
                yield item.name, f"{item.kind} {item.name}"
            case ObjectChanged(after=None, consequence=False, before=thing) if thing is not None:
                if thing.kind != "privileges":
                    yield _bare(thing), f"{thing.kind} {thing.name}"
            case _:
                pass


RULES = (
    Rule(
        id="column-renamed",
        severity="CRITICAL",
        dangerous=True,
        condition="A column that was there has another name.",
        effect=_OLD_FAILS,
        why=(
            "The old and the new version of an application run side by side during a deployment, and one name fits "
            "one only."
        ),
        safe=(
            "expand: a column of the new name, kept in step by a trigger; backfill; constrain; switch: the new "
            "version is deployed; contract: the old column goes."
        ),
        bad="ALTER TABLE customer RENAME COLUMN name TO full_name;",
        good=("ALTER TABLE customer ADD COLUMN full_name varchar(100);",),
        finds=_column_renamed,
    ),
    Rule(
        id="column-dropped",
        severity="CRITICAL",
        dangerous=True,
        condition="A column that was there is dropped.",
        effect=f"{_OLD_FAILS} Its values cannot be brought back.",
        why="Object-relational mappers name every column of a table in each SELECT and INSERT.",
        safe=(
            "switch: the new version, which does not know the column, is deployed; contract: the column goes, after "
            "an approval and the soak."
        ),
        bad="ALTER TABLE customer DROP COLUMN tier;",
        good=("ALTER TABLE customer ALTER COLUMN tier DROP NOT NULL;",),
        finds=_column_dropped,
    ),
    Rule(
        id="table-renamed",
        severity="CRITICAL",
        dangerous=True,
        condition="A table that was there has another name or schema, and none of the same columns its old one.",
        effect=_OLD_FAILS,
        why="Two versions run side by side, and one name fits one only.",
        safe="switch: the new name, and a view of the old name in the same transaction; contract: the view goes.",
        bad="ALTER TABLE purchase RENAME TO sale;",
        good=("ALTER TABLE purchase RENAME TO sale;\nCREATE VIEW purchase AS SELECT * FROM sale;",),
        finds=_table_renamed,
    ),
    Rule(
        id="table-dropped",
        severity="CRITICAL",
        dangerous=True,
        condition="A table that was there is dropped.",
        effect=f"{_OLD_FAILS} Its rows cannot be brought back.",
        why="Nothing in the database says who still uses a table; it is seen when they fail.",
        safe="contract: writers are counted first, then the table is dropped, after an approval and the soak.",
        bad="DROP TABLE address;",
        good=("CREATE TABLE visit (id bigint PRIMARY KEY);\nDROP TABLE visit;",),
        finds=_table_dropped,
    ),
    Rule(
        id="partition-detached",
        severity="WARNING",
        condition="DETACH PARTITION of one that was there.",
        effect="The table no longer shows its rows, and an INSERT of one fails where no other partition takes it.",
        why="The running version reads and writes the table, not its partitions.",
        safe="contract: it goes when no running version asks for its rows any more; CONCURRENTLY, which blocks nobody.",
        bad="ALTER TABLE event DETACH PARTITION event_2024;",
        good=("CREATE TABLE event_2026 PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');",),
        finds=_partition_detached,
    ),
    Rule(
        id="schema-gone",
        severity="CRITICAL",
        dangerous=True,
        condition="A schema with tables is dropped or renamed.",
        effect="Statements of the running version that name any of its tables fail from the commit on.",
        why="Every qualified name and every search_path with the schema leads nowhere.",
        safe="Table by table: a view of the old name at the switch, which goes in contract.",
        bad="ALTER SCHEMA archive RENAME TO attic;",
        good=("CREATE SCHEMA attic;",),
        finds=_schema_gone,
    ),
    Rule(
        id="default-dropped",
        severity="CRITICAL",
        dangerous=True,
        condition="DROP DEFAULT, DROP IDENTITY or DROP EXPRESSION of a column that was there.",
        effect="The running version relies on it wherever it does not name the column.",
        why="Code that leaves a column to its default does not show that it does.",
        safe="contract: the default goes when only versions run that give the value themselves.",
        bad="ALTER TABLE purchase ALTER COLUMN state DROP DEFAULT;",
        good=("ALTER TABLE purchase ALTER COLUMN state SET DEFAULT 'paid';",),
        finds=_default_dropped,
    ),
    Rule(
        id="required-column-added",
        severity="CRITICAL",
        dangerous=True,
        condition="ADD COLUMN … NOT NULL without a default.",
        effect=(
            "It fails on a table with rows; on an empty one, every INSERT of the running version fails, since it "
            "does not name the column."
        ),
        why="Existing rows have no value for it, and the running version gives none.",
        safe=(
            "expand: the column without NOT NULL; backfill: `up` gives a value; constrain and contract: NOT NULL by "
            "a validated check, when only the new version writes."
        ),
        bad="ALTER TABLE customer ADD COLUMN country text NOT NULL;",
        good=("ALTER TABLE customer ADD COLUMN country text NOT NULL DEFAULT 'DE';",),
        finds=_required,
    ),
    Rule(
        id="view-gone",
        severity="CRITICAL",
        dangerous=True,
        condition="A view that was there is dropped or renamed, or loses a column that it had.",
        effect=_OLD_FAILS,
        why="A view is an interface like a table.",
        safe=(
            "expand: a view of another name; contract: the old one goes. A view that is replaced keeps its columns, "
            "new ones last."
        ),
        bad="DROP VIEW open_purchase;",
        good=("CREATE OR REPLACE VIEW open_purchase AS SELECT id, amount, note FROM purchase WHERE state = 'open';",),
        finds=_view_gone,
    ),
    Rule(
        id="view-replaced",
        severity="WARNING",
        condition="A view that was there has another query and the same columns.",
        effect="The running version reads other rows or values under the same name, from the commit on.",
        why="Both versions read the same view; only one of them means the new query.",
        safe="expand: a view of another name for the new version; contract: the old one goes.",
        bad="CREATE OR REPLACE VIEW open_purchase AS SELECT id, amount FROM purchase WHERE state <> 'paid';",
        good=("CREATE VIEW unpaid_purchase AS SELECT id, amount FROM purchase WHERE state <> 'paid';",),
        finds=_view_replaced,
    ),
    Rule(
        id="object-gone",
        severity="CRITICAL",
        dangerous=True,
        condition="A function, procedure, sequence, type or domain that was there is dropped or renamed.",
        effect=_OLD_FAILS,
        why="Two versions run side by side, and the old one still calls it.",
        safe="expand: the new object beside the old one; contract: the old one goes.",
        bad="DROP FUNCTION euro(integer);",
        good=(
            (
                "CREATE OR REPLACE FUNCTION euro(cents integer) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT "
                "cents * 0.01';"
            ),
        ),
        finds=_object_gone,
    ),
    Rule(
        id="enum-label-renamed",
        severity="CRITICAL",
        dangerous=True,
        condition="ALTER TYPE … RENAME VALUE.",
        effect="The running version reads a label that it does not know, and fails when it writes the old one.",
        why="A label is a name in the application's code.",
        safe=(
            "expand: ADD VALUE; switch: the new version writes the new label; then an UPDATE of the rows. The old "
            "label stays."
        ),
        bad="ALTER TYPE purchase_state RENAME VALUE 'paid' TO 'settled';",
        good=("ALTER TYPE purchase_state ADD VALUE 'settled';",),
        finds=_label_renamed,
    ),
    Rule(
        id="privilege-revoked",
        severity="CRITICAL",
        dangerous=True,
        condition="REVOKE.",
        effect="Statements of roles that relied on the privilege fail from the commit on.",
        why="Who uses a privilege is not written anywhere.",
        safe="contract: privileges are taken when only the new version runs.",
        bad="REVOKE SELECT ON purchase FROM PUBLIC;",
        good=("GRANT SELECT ON purchase TO PUBLIC;",),
        finds=_revoked,
    ),
    Rule(
        id="row-security-enabled",
        severity="CRITICAL",
        dangerous=True,
        condition="ENABLE or FORCE ROW LEVEL SECURITY on a table that was there.",
        effect="The running version silently sees fewer rows, and its writes of others are refused.",
        why=(
            "Without a policy row security lets nothing through; with one, it depends on settings that the running "
            "version may not make."
        ),
        safe="Policies first, tried by a role of their own; row security in contract, when only the new version runs.",
        bad="ALTER TABLE purchase ENABLE ROW LEVEL SECURITY;",
        good=("CREATE POLICY all_of_it ON purchase USING (true);",),
        finds=_row_security,
    ),
    Rule(
        id="replica-identity-lost",
        severity="CRITICAL",
        dangerous=True,
        condition="The primary key or replica identity of a published table goes.",
        effect="Every UPDATE and DELETE of the running version on the table fails from the commit on.",
        why="A publication of updates and deletes needs to name the row that it means.",
        safe=(
            "The new key first (a unique index built concurrently, REPLICA IDENTITY USING INDEX), then the old one "
            "goes."
        ),
        bad="ALTER TABLE purchase DROP CONSTRAINT purchase_pkey;",
        good=(("ALTER TABLE purchase REPLICA IDENTITY FULL;\nALTER TABLE purchase DROP CONSTRAINT purchase_pkey;"),),
        finds=_identity_lost,
        setup="CREATE PUBLICATION changes FOR TABLE purchase;",
    ),
    Rule(
        id="drop-cascades",
        severity="CRITICAL",
        dangerous=True,
        condition="DROP … CASCADE drops more than it names.",
        effect="Views, constraints and columns of others are gone without having been named.",
        why="CASCADE follows dependencies that may have been made after the file was written.",
        safe="Write out each drop; each is planned in its phase, contract.",
        bad="DROP TABLE customer CASCADE;",
        good=("DROP VIEW open_purchase;",),
        finds=_cascades,
    ),
)
