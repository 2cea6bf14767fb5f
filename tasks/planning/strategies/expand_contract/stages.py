"""Columns that get another type and keep their name: how they are called until the switch, and from it on.

Two columns cannot have one name. Until the switch the new one has a temporary name, from the switch on the old one has
a hidden name. So a table goes through two stages, and each has its own pair of catalogs:

================  ==========================  ==========================
stage             old column                  new column
================  ==========================  ==========================
``expanded``      its own name                ``lockstep_new_…``
``switched``      ``lockstep_old_…``          its own name
================  ==========================  ==========================

The catalogs come from the server, which renames the columns on a clone (`tasks.database.shapes`), and with them in
every definition that names them. Whatever is planned for one stage is planned on its catalogs and needs to know no
more than that an old and a new column have different names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tasks.planning.catalog import Catalog
from tasks.planning.names import TableName, own_name

StageName = Literal["expanded", "switched"]


@dataclass(frozen=True, slots=True)
class Moved:
    """A column that moves into a new one of its name: ``coming`` is the new one's name before the switch, ``hidden``
    the old one's from then on."""

    name: str
    coming: str
    hidden: str

    @classmethod
    def of(cls, migration: str, table: TableName, column: str) -> Moved:
        return cls(column, own_name("new", migration, *table, column), own_name("old", migration, *table, column))


@dataclass(frozen=True, slots=True)
class Shapes:
    """The catalogs before and after the user's change, with the columns called as in one stage."""

    stage: StageName
    before: Catalog
    after: Catalog


@dataclass(frozen=True, slots=True)
class Stages:
    """Both stages of a migration; without moved columns they are the same."""

    expanded: Shapes
    switched: Shapes
    moved: Mapping[TableName, tuple[Moved, ...]]

    @classmethod
    def alike(cls, before: Catalog, after: Catalog) -> Stages:
        return cls(Shapes("expanded", before, after), Shapes("switched", before, after), {})


@dataclass(frozen=True, slots=True)
class Naming:
    """How the columns of one table are called in one stage, by the name that they have in the user's words."""

    old: Mapping[str, str]
    new: Mapping[str, str]

    @classmethod
    def of(cls, moved: tuple[Moved, ...], stage: StageName) -> Naming:
        match stage:
            case "expanded":
                return cls({}, {column.name: column.coming for column in moved})
            case "switched":
                return cls({column.name: column.hidden for column in moved}, {})
