"""What a flow run is called in the Prefect UI: after its migration."""

from __future__ import annotations

from pathlib import Path

from prefect.runtime import flow_run


def run_name() -> str:
    """Return the name of the migration that the present run is about."""
    migration = str((flow_run.parameters or {}).get("migration", "lockstep"))
    return Path(migration).stem
