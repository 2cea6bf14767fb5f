"""The files of a project's migrations: found, named, decoded, and each with its checksum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

from tasks.planning.errors import SpecError
from tasks.planning.flyway.checksum import checksum
from tasks.planning.flyway.names import SCRIPT_SUFFIXES, Misnamed, ScriptName, has_suffix, is_program, read_name
from tasks.planning.flyway.placeholders import own_values, replaced
from tasks.planning.flyway.script_settings import ScriptSettings, read_script_settings
from tasks.planning.flyway.settings import Settings
from tasks.planning.flyway.versions import Version
from tasks.planning.text_files import decoded, without_mark

MigrationType = Literal["SQL", "SQL_BASELINE", "SCRIPT"]


@dataclass(frozen=True, slots=True)
class Migration:
    """A file that Flyway would run once, or again when it has changed where ``version`` is None."""

    path: Path
    script: str
    """What the history table calls it: the path from its location on, with slashes."""
    type: MigrationType
    version: Version | None
    description: str
    text: str
    """As it stands in the file, without a byte order mark."""
    checksum: int
    plain_checksum: int
    """Of the text with its placeholders; Flyway also takes a repeatable migration with this one for unchanged."""
    script_settings: ScriptSettings

    @property
    def is_run_at_all(self) -> bool:
        """Whether it is a change: baselines stand for others, and ``shouldExecute=false`` switches a file off."""
        return self.type != "SQL_BASELINE" and self.script_settings.should_execute

    def has_checksum(self, recorded: int | None) -> bool:
        return recorded == self.checksum or (self.version is None and recorded == self.plain_checksum)


@dataclass(frozen=True, slots=True)
class Ignored:
    """A file that Flyway passes over without a word, which may be news to whoever wrote it."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Folder:
    """All files of the locations: ``migrations`` with versions first, in their order, then by description."""

    migrations: tuple[Migration, ...]
    callbacks: tuple[Path, ...] = ()
    ignored: tuple[Ignored, ...] = ()


def read_folder(*locations: Path, settings: Settings = Settings()) -> Folder:  # noqa: B008 - frozen
    """Read the folders that Flyway's ``locations`` name, and those within them.

    Raises `SpecError` for a folder that is not there, for two files with one version or two repeatable ones with one
    description, for text in another encoding than said, and for placeholders of repeatable migrations that have no
    value: without it their checksums cannot be told.
    """
    files = tuple((path, path.relative_to(location).as_posix()) for location in locations for path in _files(location))
    by_script = {script.lower(): path for path, script in files}
    migrations: list[Migration] = []
    callbacks: list[Path] = []
    ignored: list[Ignored] = []
    for path, script in files:
        match _read(path.name, settings):
            case None:
                continue
            case Misnamed(reason):
                ignored.append(Ignored(path, reason))
            case ScriptName(kind="callback"):
                callbacks.append(path)
            case ScriptName() as name:
                own = by_script.get(f"{script.lower()}.conf")
                migrations.append(_migration(path, script, name, own, settings))
    migrations.sort(key=_order)
    _refuse_duplicates(migrations)
    return Folder(tuple(migrations), tuple(sorted(callbacks)), tuple(sorted(ignored, key=lambda item: item.path)))


def _files(folder: Path) -> Iterator[Path]:
    """Yield the folder's files and those of the folders in it, without hidden folders."""
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise SpecError(
            f"{folder}: cannot be read: {error.strerror}.", remedy="Give the folder that Flyway's locations name."
        ) from None
    for path in inside:
        if path.is_file():
            yield path
        elif path.is_dir() and not path.name.startswith("."):
            yield from _files(path)


def _read(name: str, settings: Settings) -> ScriptName | Misnamed | None:
    """Return what the name says; None for a file that has nothing to do with Flyway."""
    if has_suffix(name, settings.sql_migration_suffixes):
        return read_name(name, settings)
    if not is_program(name):
        return None
    # Most files without a suffix are no programs of Flyway's, and nobody takes them for one.
    program = read_name(name, settings, SCRIPT_SUFFIXES)
    return program if isinstance(program, ScriptName) else None


def _migration(path: Path, script: str, name: ScriptName, own: Path | None, settings: Settings) -> Migration:
    sql = has_suffix(path.name, settings.sql_migration_suffixes)
    text, script_settings = read_sql(path, own if sql else None, settings)
    migration = Migration(
        path=path,
        script=script,
        type="SQL_BASELINE" if name.kind == "baseline" else "SQL" if sql else "SCRIPT",
        version=name.version,
        description=name.description,
        text=text,
        checksum=checksum(text),
        plain_checksum=checksum(text),
        script_settings=script_settings,
    )
    if sql and name.kind == "repeatable":
        return replace(migration, checksum=checksum(final_text(migration, settings)))
    return migration


def read_sql(path: Path, own: Path | None, settings: Settings) -> tuple[str, ScriptSettings]:
    """Return a file's text, without a byte order mark, and what its own settings say, where it has a file of them.

    Raises `SpecError`, and `Unsupported` for settings of the paid editions.
    """
    script_settings = ScriptSettings()
    if own is not None:
        script_settings = read_script_settings(_decoded(own, settings.encoding), source=str(own))
    return without_mark(_decoded(path, script_settings.encoding or settings.encoding)), script_settings


def final_text(migration: Migration, settings: Settings) -> str:
    """Return the text that is run: with its placeholders replaced. Raises `SpecError` for one without a value."""
    wanted = migration.script_settings.placeholder_replacement
    if not (settings.placeholder_replacement if wanted is None else wanted):
        return migration.text
    name = migration.path.name
    if not migration.description:
        name = name.replace(settings.sql_migration_separator, "", 1)  # Flyway puts the name together from its parts
    own = own_values(name, settings)
    return replaced(migration.text, settings, own, source=str(migration.path))


def _decoded(path: Path, encoding: str) -> str:
    remedy = f"Flyway fails here too. Save the file as {encoding}, or say encoding=… in {path.name}.conf."
    return decoded(path, encoding, remedy=remedy)


def _order(migration: Migration) -> tuple[bool, Version, str]:
    version = migration.version
    return version is None, version or Version((), ""), migration.description


def _refuse_duplicates(migrations: Sequence[Migration]) -> None:
    """Refuse one version, or one repeatable description, twice. A baseline may stand beside what it sums up."""
    for baseline in (True, False):
        alike = [each for each in migrations if (each.type == "SQL_BASELINE") is baseline]
        for first, second in pairwise(alike):
            if _order(first)[:2] != _order(second)[:2] or (
                first.version is None and first.description != second.description
            ):
                continue
            what = f"the version {second.version}" if second.version else f"the description {second.description!r}"
            raise SpecError(
                f"Two files have {what}: {first.path} and {second.path}.",
                remedy="Flyway refuses the folder. Give one of them another; 1, 1.0 and 001 are one version.",
            )
