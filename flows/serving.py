"""`lockstep up`: a local Prefect server, a worker and the deployments, until Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from flows import console
from tasks import prefect_server
from tasks.planning.errors import MigrationError

POOL = "lockstep"
FOLDER = Path(__file__).parent.parent
STOP_SECONDS = 20


def serve(port: int) -> int:
    """Start server and worker, deploy prefect.yaml, and wait for Ctrl-C."""
    prefect_server.prepare_verbose()
    with prefect_server.serving(port) as server:
        deploy()
        with worker():
            console.err().print(f"Prefect UI: {server.ui}   (Ctrl-C ends it)", style="bold")
            with contextlib.suppress(KeyboardInterrupt):
                console.wait_for_enter("Press Enter or Ctrl-C to stop.") if console.interactive() else _wait()
    return console.EXIT_DONE


def deploy() -> None:
    """Create the work pool and the deployments of prefect.yaml on the server of PREFECT_API_URL."""
    _prefect("work-pool", "create", POOL, "--type", "process", "--overwrite")
    _prefect("--no-prompt", "deploy", "--all")


@contextlib.contextmanager
def worker(name: str = "lockstep-worker") -> Iterator[subprocess.Popen[bytes]]:
    """Have a process worker for the length of a block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--name", name],
        cwd=FOLDER,
        env=os.environ | prefect_server.PRIVATE,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno() if console.interactive() else subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _prefect(*arguments: str) -> None:
    command: Sequence[str] = (sys.executable, "-m", "prefect", *arguments)
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MigrationError(
            f"`prefect {' '.join(arguments)}` failed: {(done.stderr or done.stdout).strip()[-500:]}",
            safety="Nothing was touched.",
        )


def _wait() -> None:
    import threading

    threading.Event().wait()
