"""Long work while writes are blocked: rewrites, full scans and index builds, each with the way around it."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.planning.change import ColumnAdded, ColumnChanged, ConstraintAdded
from tasks.planning.findings.moment import Moment
from tasks.planning.findings.rule import Hit, Rule
from tasks.planning.names import TableName, display

_WRITES_WAIT = "Nobody can write the table until it is done, and every statement that waits holds a connection."
_ALL_WAIT = "Nobody can read or write the table until it is done, and every statement that waits holds a connection."


def _is_rewritten(moment: Moment, table: TableName) -> bool:
    return table in moment.now.rewrites and bool(moment.blocked)


def _is_scanned(moment: Moment, table: TableName) -> bool:
    return table in moment.now.scans and table not in moment.now.rewrites and bool(moment.blocked_by_itself)


def _type_change(moment: Moment) -> Iterator[Hit]:
    for change in moment.did(ColumnChanged):
        if change.retyped and _is_rewritten(moment, change.table):
            column = f"{change.table}.{display(change.before.name)} from {change.before.type} to {change.after.type}"
            yield Hit(f"Changing {column} rewrites the table under {moment.lock_of(change.table)}.", change.table)


def _column_added(moment: Moment) -> Iterator[Hit]:
    for change in moment.did(ColumnAdded):
        if _is_rewritten(moment, change.table):
            column = f"{change.table}.{display(change.after.name)}"
            yield Hit(f"Adding {column} rewrites the table under {moment.lock_of(change.table)}.", change.table)


def _refreshed(moment: Moment) -> Iterator[Hit]:
    if moment.kind == "refresh_materialized_view" and not moment.now.statement.concurrent and not moment.node.skip_data:
        names = moment.now.statement.tables
        yield Hit(f"{str(names[0]).removeprefix('.')} is filled anew under ACCESS EXCLUSIVE: its readers wait.")


def _repacked(moment: Moment) -> Iterator[Hit]:
    is_full = moment.kind == "vacuum" and any(item.def_elem.defname == "full" for item in moment.node.options)
    if is_full or moment.kind == "cluster":
        words = "VACUUM FULL" if is_full else "CLUSTER"
        yield Hit(f"{words} copies the table under ACCESS EXCLUSIVE.", next(iter(moment.now.own), None))


def _rewritten(moment: Moment) -> Iterator[Hit]:
    if moment.blocked:
        for table in moment.now.rewrites:
            yield Hit(f"{table} is rewritten under {moment.lock_of(table)}.", table)


def _not_null(moment: Moment) -> Iterator[Hit]:
    for change in moment.did(ColumnChanged):
        made = change.nullability_changed and change.after.not_null
        if made and _is_scanned(moment, change.table):
            column = f"{change.table}.{display(change.before.name)}"
            yield Hit(
                f"SET NOT NULL of {column} reads the whole table under {moment.lock_of(change.table)}.", change.table
            )


def _added(moment: Moment, *kinds: str) -> Iterator[ConstraintAdded]:
    for change in moment.did(ConstraintAdded):
        if change.after.kind in kinds and change.after.validated:
            yield change


def _check(moment: Moment) -> Iterator[Hit]:
    for change in _added(moment, "check"):
        if _is_scanned(moment, change.table):
            name = f"{display(change.after.name)} of {change.table}"
            yield Hit(f"The new CHECK {name} reads the whole table under {moment.lock_of(change.table)}.", change.table)


def _foreign_key(moment: Moment) -> Iterator[Hit]:
    for change in _added(moment, "foreign_key"):
        if _is_scanned(moment, change.table):
            name = f"{display(change.after.name)} of {change.table}"
            yield Hit(
                f"The new foreign key {name} is checked for every row while {change.table} and "
                f"{change.after.references} cannot be written ({moment.lock_of(change.table)}).",
                change.table,
            )


def _key(moment: Moment) -> Iterator[Hit]:
    built = {table for _, table in moment.now.index_builds}
    for change in _added(moment, "primary_key", "unique", "exclusion"):
        if change.table in built and moment.blocked_by_itself and change.table not in moment.now.rewrites:
            name = f"{display(change.after.name)} of {change.table}"
            yield Hit(f"{name} builds its index under {moment.lock_of(change.table)}.", change.table)


def _index(moment: Moment) -> Iterator[Hit]:
    if moment.kind == "create_index" and moment.blocked_by_itself:
        for name, table in moment.now.index_builds:
            yield Hit(f"{display(name)} is built on {table} under {moment.lock_of(table)}.", table)


def _reindexed(moment: Moment) -> Iterator[Hit]:
    if moment.kind == "reindex" and not moment.now.statement.concurrent:
        on = sorted({table for _, table in moment.now.index_builds})
        what = ", ".join(str(table) for table in on) or "its table"
        yield Hit(f"REINDEX keeps writes of {what} waiting, and reads that use the index.", on[0] if on else None)


def _index_rebuilt(moment: Moment) -> Iterator[Hit]:
    if moment.blocked:
        for name, table in moment.now.index_builds:
            yield Hit(f"Index {display(name)} of {table} is built under {moment.lock_of(table)}.", table)


def _partition(moment: Moment) -> Iterator[Hit]:
    commands = [command.alter_table_cmd for command in moment.node.cmds] if moment.kind == "alter_table" else []
    attaches = any(getattr(command, "def").partition_cmd.HasField("bound") for command in commands)
    creates = moment.kind == "create_table" and moment.node.HasField("partbound")
    if (attaches or creates) and moment.blocked_by_itself:
        for table in moment.now.scans:
            yield Hit(f"The new partition has {table} read from begin to end under {moment.lock_of(table)}.", table)


def _domain(moment: Moment) -> Iterator[Hit]:
    if moment.kind == "alter_domain" and moment.blocked_by_itself:
        for table in moment.now.scans:
            yield Hit(f"The domain's new rule has {table} read under {moment.lock_of(table)}.", table)


def _scanned(moment: Moment) -> Iterator[Hit]:
    if moment.blocked:
        for table in moment.now.scans:
            yield Hit(f"{table} is read from begin to end under {moment.lock_of(table)}.", table)


RULES = (
    Rule(
        id="type-change-rewrites",
        severity="CRITICAL",
        dangerous=True,
        condition="ALTER COLUMN … TYPE for which PostgreSQL rewrites the table.",
        effect=_ALL_WAIT,
        why=(
            "The old and the new type are stored differently, or values have to be checked, so every row is written "
            "anew, with all indexes, under ACCESS EXCLUSIVE. Types that are stored alike (varchar(10) to varchar(20) "
            "or text) are changed in the catalog alone."
        ),
        safe=(
            "expand: a new column of the new type, kept in step by a trigger; backfill: in batches; constrain: its "
            "indexes concurrently, and a gate that compares both columns; switch: the new column takes the name; "
            "contract: the old one goes."
        ),
        bad="ALTER TABLE customer ALTER COLUMN visits TYPE bigint;",
        good=("ALTER TABLE customer ALTER COLUMN name TYPE varchar(200);",),
        finds=_type_change,
    ),
    Rule(
        id="column-added-with-rewrite",
        severity="CRITICAL",
        dangerous=True,
        condition="ADD COLUMN with a volatile default, an identity, a stored generated value or a checked domain.",
        effect=_ALL_WAIT,
        why=(
            "A constant default is kept once, in the catalog; a value that differs from row to row has to be written "
            "into every row at once."
        ),
        safe=(
            "expand: the column without a value for existing rows, and its default for new ones; backfill: existing "
            "rows in batches; constrain: NOT NULL by a validated check."
        ),
        bad="ALTER TABLE purchase ADD COLUMN token double precision DEFAULT random();",
        good=(
            "ALTER TABLE purchase ADD COLUMN seen boolean NOT NULL DEFAULT false;",
            (
                "ALTER TABLE purchase ADD COLUMN token double precision; ALTER TABLE purchase ALTER COLUMN token SET "
                "DEFAULT random();"
            ),
        ),
        finds=_column_added,
    ),
    Rule(
        id="materialized-view-refresh-blocks",
        severity="CRITICAL",
        dangerous=True,
        condition="REFRESH MATERIALIZED VIEW without CONCURRENTLY.",
        effect="Nobody can read the view until it is filled.",
        why="The new content replaces the old under ACCESS EXCLUSIVE, which is held while the query runs.",
        safe="Refresh it by itself, CONCURRENTLY, outside of the migration; that needs a unique index on the view.",
        bad="REFRESH MATERIALIZED VIEW customer_total;",
        good=("REFRESH MATERIALIZED VIEW CONCURRENTLY customer_total;",),
        finds=_refreshed,
    ),
    Rule(
        id="table-repacked",
        severity="CRITICAL",
        dangerous=True,
        condition="VACUUM FULL or CLUSTER.",
        effect=_ALL_WAIT,
        why="The table is copied, with all indexes, under ACCESS EXCLUSIVE; it needs as much disk again.",
        safe=(
            "Plain VACUUM frees the space for new rows; pg_repack or a shadow table make the file smaller while the "
            "application works."
        ),
        bad="VACUUM FULL purchase;",
        good=("VACUUM purchase;",),
        finds=_repacked,
    ),
    Rule(
        id="table-rewritten",
        severity="CRITICAL",
        dangerous=True,
        condition="Any other statement that rewrites a table while writes are blocked, e.g. SET UNLOGGED.",
        effect=_ALL_WAIT,
        why="Every row is written anew, with all indexes, and none of it can be used meanwhile.",
        safe=(
            "A new table in the new form beside the old one, filled in batches and kept in step (shadow table), then "
            "exchanged in one short transaction."
        ),
        bad="ALTER TABLE purchase SET UNLOGGED;",
        good=("ALTER TABLE purchase SET (fillfactor = 80);",),
        finds=_rewritten,
        yields_to=(
            "type-change-rewrites",
            "column-added-with-rewrite",
            "materialized-view-refresh-blocks",
            "table-repacked",
            "work-after-lock",
            "data-change-after-lock",
            "table-emptied",
        ),
    ),
    Rule(
        id="not-null-scans",
        severity="CRITICAL",
        dangerous=True,
        condition="SET NOT NULL on a column whose rows PostgreSQL has to look at.",
        effect=_ALL_WAIT,
        why="All rows are read under ACCESS EXCLUSIVE, unless a validated CHECK (… IS NOT NULL) already proves it.",
        safe=(
            "contract, after the new version alone writes: CHECK (… IS NOT NULL) NOT VALID; VALIDATE in another "
            "transaction; SET NOT NULL, which relies on the check; the check goes."
        ),
        bad="ALTER TABLE customer ALTER COLUMN tier SET NOT NULL;",
        good=(
            "ALTER TABLE customer ADD CONSTRAINT tier_there CHECK (tier IS NOT NULL) NOT VALID;",
            "ALTER TABLE customer VALIDATE CONSTRAINT tier_there;",
            "ALTER TABLE customer ALTER COLUMN tier SET NOT NULL;",
        ),
        finds=_not_null,
    ),
    Rule(
        id="check-scans",
        severity="CRITICAL",
        dangerous=True,
        condition="A CHECK is added, and checked at once.",
        effect=_ALL_WAIT,
        why=(
            "All rows are read under ACCESS EXCLUSIVE. NOT VALID leaves them out, and VALIDATE CONSTRAINT reads them "
            "later without blocking anybody."
        ),
        safe="contract: ADD CONSTRAINT … NOT VALID; VALIDATE CONSTRAINT in another transaction.",
        bad="ALTER TABLE purchase ADD CONSTRAINT amount_positive CHECK (amount > 0);",
        good=(
            "ALTER TABLE purchase ADD CONSTRAINT amount_positive CHECK (amount > 0) NOT VALID;",
            "ALTER TABLE purchase VALIDATE CONSTRAINT amount_positive;",
        ),
        finds=_check,
    ),
    Rule(
        id="foreign-key-scans",
        severity="CRITICAL",
        dangerous=True,
        condition="A foreign key is added, and checked at once.",
        effect="Nobody can write either of the two tables until it is done.",
        why=(
            "Both tables are locked with SHARE ROW EXCLUSIVE while every row looks for its parent. NOT VALID leaves "
            "the existing rows out, and VALIDATE CONSTRAINT checks them later while both tables are written."
        ),
        safe="contract: ADD FOREIGN KEY … NOT VALID; VALIDATE CONSTRAINT in another transaction.",
        bad="ALTER TABLE purchase ADD CONSTRAINT purchase_customer_fk FOREIGN KEY (customer_id) REFERENCES customer;",
        good=(
            (
                "ALTER TABLE purchase ADD CONSTRAINT purchase_customer_fk FOREIGN KEY (customer_id) REFERENCES "
                "customer NOT VALID;"
            ),
            "ALTER TABLE purchase VALIDATE CONSTRAINT purchase_customer_fk;",
        ),
        finds=_foreign_key,
    ),
    Rule(
        id="key-builds-index",
        severity="CRITICAL",
        dangerous=True,
        condition="PRIMARY KEY, UNIQUE or EXCLUDE is added and builds its index.",
        effect=_ALL_WAIT,
        why="The index is built under ACCESS EXCLUSIVE. ADD CONSTRAINT … USING INDEX takes one that is there.",
        safe="contract: CREATE UNIQUE INDEX CONCURRENTLY, then ADD CONSTRAINT … USING INDEX, which is brief.",
        bad="ALTER TABLE customer ADD CONSTRAINT customer_email_key UNIQUE (email);",
        good=(
            "CREATE UNIQUE INDEX CONCURRENTLY customer_email_key ON customer (email);",
            "ALTER TABLE customer ADD CONSTRAINT customer_email_key UNIQUE USING INDEX customer_email_key;",
        ),
        finds=_key,
    ),
    Rule(
        id="index-build-blocks-writes",
        severity="CRITICAL",
        dangerous=True,
        condition="CREATE INDEX without CONCURRENTLY on a table that was there.",
        effect=_WRITES_WAIT,
        why=(
            "The build holds SHARE, which no INSERT, UPDATE or DELETE gets past. CONCURRENTLY reads the table twice "
            "and waits for older transactions, but nobody waits for it."
        ),
        safe="constrain: CREATE INDEX CONCURRENTLY, alone; a build that fails is dropped and begun again.",
        bad="CREATE INDEX purchase_note ON purchase (note);",
        good=("CREATE INDEX CONCURRENTLY purchase_note ON purchase (note);",),
        finds=_index,
    ),
    Rule(
        id="reindex-blocks",
        severity="CRITICAL",
        dangerous=True,
        condition="REINDEX without CONCURRENTLY.",
        effect="Nobody can write the table, and no query can use the index, until it is done.",
        why="The table is locked with SHARE and each index with ACCESS EXCLUSIVE.",
        safe="constrain: REINDEX INDEX CONCURRENTLY, index by index.",
        bad="REINDEX TABLE purchase;",
        good=("REINDEX TABLE CONCURRENTLY purchase;",),
        finds=_reindexed,
    ),
    Rule(
        id="partition-scans",
        severity="CRITICAL",
        dangerous=True,
        condition="A partition is attached or created, and rows have to be looked at for it.",
        effect="Nobody can use the table that is read until it is done.",
        why=(
            "PostgreSQL has to know that the rows fit the new partition, and that the default partition has none of "
            "its rows. A validated CHECK that says so makes the scan needless."
        ),
        safe=(
            "By itself, before the migration: CHECK constraints NOT VALID on the new partition and on the default "
            "one; VALIDATE in another transaction; ATTACH PARTITION, which then reads nothing; the checks go."
        ),
        bad="ALTER TABLE event ATTACH PARTITION event_2025 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');",
        good=(
            (
                "ALTER TABLE event_2025 ADD CONSTRAINT fits CHECK (day >= '2025-01-01' AND day < '2026-01-01') NOT "
                "VALID; ALTER TABLE event_rest ADD CONSTRAINT fits CHECK (NOT (day >= '2025-01-01' AND day < "
                "'2026-01-01')) NOT VALID;"
            ),
            "ALTER TABLE event_2025 VALIDATE CONSTRAINT fits; ALTER TABLE event_rest VALIDATE CONSTRAINT fits;",
            "ALTER TABLE event ATTACH PARTITION event_2025 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');",
        ),
        finds=_partition,
    ),
    Rule(
        id="domain-constraint-scans",
        severity="CRITICAL",
        dangerous=True,
        condition="ALTER DOMAIN adds a constraint that existing values are checked for.",
        effect="Nobody can write any table with a column of the domain until all of them were read.",
        why="The constraint holds for every column of the domain, so every such table is read, locked with SHARE.",
        safe=(
            "By itself: ALTER DOMAIN … ADD CONSTRAINT … NOT VALID; then VALIDATE CONSTRAINT in another transaction "
            "in a quiet hour, since that locks too; or a CHECK on each table, NOT VALID and validated."
        ),
        bad="ALTER DOMAIN quantity ADD CONSTRAINT positive CHECK (VALUE > 0);",
        good=("ALTER DOMAIN quantity ADD CONSTRAINT positive CHECK (VALUE > 0) NOT VALID;",),
        finds=_domain,
    ),
    Rule(
        id="index-rebuilt",
        severity="CRITICAL",
        dangerous=True,
        condition="An index is built while writes are blocked, for any other reason.",
        effect=_WRITES_WAIT,
        why=(
            "An index takes the longer to build the larger the table is; a type that sorts differently needs its "
            "indexes anew."
        ),
        safe="A new column of the new type with an index built concurrently (expand to contract).",
        bad='ALTER TABLE address ALTER COLUMN city TYPE text COLLATE "C";',
        good=("ALTER TABLE customer ALTER COLUMN name TYPE varchar(200);",),
        finds=_index_rebuilt,
        yields_to=(
            "type-change-rewrites",
            "column-added-with-rewrite",
            "table-rewritten",
            "table-repacked",
            "key-builds-index",
            "index-build-blocks-writes",
            "reindex-blocks",
            "materialized-view-refresh-blocks",
            "work-after-lock",
            "data-change-after-lock",
            "table-emptied",
        ),
        setup="CREATE INDEX address_city ON address (city);",
    ),
    Rule(
        id="scan-blocks-writes",
        severity="CRITICAL",
        dangerous=True,
        condition="A table is read from begin to end while writes are blocked, for any other reason.",
        effect=_WRITES_WAIT,
        why="What waits for the lock waits for the whole scan, and later statements queue behind it.",
        safe=(
            "Have the rows looked at under a lock that blocks nobody (VALIDATE CONSTRAINT in a transaction of its "
            "own), or leave the statement out if it changes nothing."
        ),
        bad="ALTER TABLE customer ALTER COLUMN visits TYPE integer;",
        good=("ALTER TABLE customer ALTER COLUMN name TYPE varchar(200);",),
        finds=_scanned,
        yields_to=(
            "table-emptied",
            "required-column-added",
            "type-change-rewrites",
            "column-added-with-rewrite",
            "table-rewritten",
            "table-repacked",
            "not-null-scans",
            "check-scans",
            "foreign-key-scans",
            "key-builds-index",
            "index-build-blocks-writes",
            "reindex-blocks",
            "partition-scans",
            "domain-constraint-scans",
            "index-rebuilt",
            "materialized-view-refresh-blocks",
            "validated-in-same-transaction",
            "data-change-after-lock",
            "work-after-lock",
        ),
        setup="ALTER TABLE customer ADD CONSTRAINT visits_few CHECK (visits < 1000000);",
    ),
)
"""From the particular to the general."""
