"""Random tables: their columns, keys and rows, and the application's statements on them.

Everything follows from one `random.Random`, so a seed says the whole. Values are SQL over the parameters of
`tests.acceptance.writers.Workload` (``n`` one of the writer's own keys, ``fresh`` a new one, ``i``, ``t``, ``w`` and
``b``), and over the row's number ``g`` in the rows that are there from the start.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from random import Random

from psycopg import sql

NAMES = (
    "amount",
    "Größe",
    "select",
    "a b",
    'q"q',
    "percent%s",
    "note",
    "kind",
    "stamp",
    "flag",
    "x" * 63,
    "new",
    "old",
)
"""Names of columns, the awkward ones among them."""
TABLES = ("reading", "Order", "water intake", "größe", "t" * 63)
INSERTED, DELETED = "insert", "delete"


def quoted(name: str) -> str:
    """Return the identifier as it stands in a statement without parameters."""
    return sql.Identifier(name).as_string()


def escaped(text: str) -> str:
    """Return text for a statement with parameters, where a plain ``%`` would begin a placeholder."""
    return text.replace("%", "%%")


@dataclass(frozen=True)
class Kind:
    """A kind of values: the column's type, and values from a parameter of the workload and from a row's number."""

    type: str
    sent: str
    """SQL over the workload's parameters."""
    stored: str
    """SQL over ``g``, the row's number."""


INT = Kind("int", "%(i)s", "g % 1000 + 1")
BIGINT = Kind("bigint", "%(i)s::bigint * 3000000000", "g::bigint * 3000000000")
TEXT = Kind("text", "%(t)s", "'text ' || g")
WORD = Kind("text", "%(w)s", "'word' || g")
WORDS = Kind("text", "%(w)s || ' ' || %(w)s", "'first' || g || ' last' || g % 7")
NUMERIC = Kind("numeric(10,2)", "%(i)s / 8.0", "g / 4.0")
STAMP = Kind(
    "timestamp", "timestamp '2024-01-01' + %(i)s * interval '7 minutes'", "timestamp '2023-01-01' + g * interval '1 h'"
)
BOOLEAN = Kind("boolean", "%(b)s", "g % 2 = 0")
UUID = Kind("uuid", "md5(%(i)s::text)::uuid", "md5(g::text)::uuid")
SHORT = Kind("varchar(20)", "left(%(t)s, 20)", "'short ' || g")
KINDS = (INT, BIGINT, TEXT, WORDS, NUMERIC, STAMP, BOOLEAN, UUID, SHORT)


@dataclass(frozen=True)
class Column:
    name: str
    kind: Kind
    not_null: bool
    default: str | None = None
    always_given: bool = False
    """Nullable, and yet the application writes no NULL into it and leaves it out of no INSERT."""
    left_alone: bool = False
    """Nullable, and the application never writes it."""

    @property
    def has_nulls(self) -> bool:
        return not (self.not_null or self.always_given)

    @property
    def definition(self) -> str:
        default = f" DEFAULT {self.default}" if self.default else ""
        return f"{quoted(self.name)} {self.kind.type}{' NOT NULL' if self.not_null else ''}{default}"


@dataclass(frozen=True)
class Key:
    """A primary key: its columns with the value of the row numbered by ``{}`` in each."""

    columns: tuple[tuple[str, str, str], ...]
    """(name, type, value)"""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _, _ in self.columns)

    def values(self, number: str) -> tuple[str, ...]:
        return tuple(value.format(number) for _, _, value in self.columns)


KEYS = (
    Key((("id", "int", "{}::int"),)),
    Key((("id", "bigint", "{}::bigint"),)),
    Key((("Id", "text", "'key ' || {}"),)),
    Key((("id", "uuid", "md5({}::text)::uuid"),)),
    Key((("part", "smallint", "({} & 7)::smallint"), ("nr", "int", "{}::int"))),
    Key((("day", "date", "date '2024-01-01' + ({}::int & 255)"), ("nr", "text", "{}::text"))),
)


@dataclass(frozen=True)
class Table:
    """A table with the columns that the application reads and writes beside the key."""

    name: str
    key: Key
    columns: tuple[Column, ...]
    rows: int
    constraint: str = "PRIMARY KEY"
    """What makes the key one."""

    @property
    def quoted(self) -> str:
        return quoted(self.name)

    def with_columns(self, columns: Sequence[Column]) -> Table:
        return replace(self, columns=tuple(columns))

    def setup(self) -> str:
        """Return the statements that create and fill the table."""
        key = ", ".join(f"{quoted(name)} {kind}" for name, kind, _ in self.key.columns)
        names = ", ".join(quoted(name) for name in self.key.names)
        columns = "".join(f", {column.definition}" for column in self.columns)
        targets = ", ".join([names, *(quoted(column.name) for column in self.columns)])
        values = ", ".join([*self.key.values("g"), *(_stored(column) for column in self.columns)])
        return (
            f"CREATE TABLE {self.quoted} ({key}{columns}, {self.constraint} ({names}));\n"
            f"INSERT INTO {self.quoted} ({targets}) SELECT {values} FROM generate_series(1, {self.rows}) AS g;\n"
        )

    def statements(self, chance: Random, *, untouched: Collection[str] = ()) -> dict[str, str]:
        """Return the application's statements in this shape; no UPDATE writes the columns named ``untouched``."""
        written = [column for column in self.columns if not column.left_alone]
        columns = [column for column in written if column.name not in untouched]
        name = escaped(self.quoted)
        found = {INSERTED: self._insert(written)}
        for position, column in enumerate(columns):
            value = column.kind.sent
            if column.has_nulls and chance.random() < 0.5:
                value = f"CASE WHEN %(b)s THEN {value} END"
            found[f"update {position}"] = (
                f"UPDATE {name} SET {escaped(quoted(column.name))} = {value} WHERE {self.one_row()}"
            )
        if len(columns) > 1:
            first, second = chance.sample(columns, 2)
            found["update two"] = (
                f"UPDATE {name} SET {escaped(quoted(first.name))} = {first.kind.sent}, "
                f"{escaped(quoted(second.name))} = {second.kind.sent} WHERE {self.one_row()}"
            )
        found[DELETED] = f"DELETE FROM {name} WHERE {self.one_row()} AND %(n)s::int %% 5 = 0"
        return found

    def _insert(self, columns: Sequence[Column]) -> str:
        # A column that may be left out is left out in every second case, by its place.
        needed = [(c.not_null and c.default is None) or c.always_given for c in columns]
        given = [c for position, c in enumerate(columns) if needed[position] or position % 2 == 0]
        targets = ", ".join(escaped(quoted(name)) for name in (*self.key.names, *(c.name for c in given)))
        values = ", ".join([*self.key.values("%(fresh)s"), *(c.kind.sent for c in given)])
        return f"INSERT INTO {escaped(self.quoted)} ({targets}) VALUES ({values})"

    def one_row(self) -> str:
        """Return the condition that finds the row numbered by the parameter ``n``."""
        pairs = zip(self.key.names, self.key.values("%(n)s"), strict=True)
        return " AND ".join(f"{escaped(quoted(name))} = {value}" for name, value in pairs)


def _stored(column: Column) -> str:
    return f"CASE WHEN g % 4 <> 0 THEN {column.kind.stored} END" if column.has_nulls else column.kind.stored


def random_table(chance: Random) -> Table:
    """Return a table of three to six columns with up to 3,000 rows, rarely none or one."""
    names = chance.sample(NAMES, chance.randint(3, 6))
    columns = []
    for name in names:
        not_null = chance.random() < 0.6
        columns.append(Column(name, chance.choice(KINDS), not_null))
    rows = chance.choice((0, 1, 200, 1_000, 3_000))
    return Table(chance.choice(TABLES), chance.choice(KEYS), tuple(columns), rows)
