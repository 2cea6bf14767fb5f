"""The task `gate`: evaluate a gate, keep its result, stop on what is critical."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import platformdirs
from prefect import task
from prefect.cache_policies import NO_CACHE

from expectations.gate import run_gate
from tasks.artifacts import key_of, publish_gate
from tasks.database.connection import Target
from tasks.database.runner import open_runner
from tasks.databases import target_of
from tasks.narration import say, show_progress
from tasks.planning.errors import GateFailed
from tasks.planning.gates import GateResult
from tasks.planning.plan import Gate, Phase
from tasks.secrecy import discreet
from tasks.standing import Standing, standing_of


@task(name="gate", task_run_name="gate: {gate}", cache_policy=NO_CACHE, persist_result=False, retries=0)
def check_gate(migration: str, database: str, phase: str, gate: str) -> None:
    """Evaluate a gate of a phase now and record its result. Raises GateFailed when a CRITICAL check fails.

    It holds the lease: a gate may take hours, and nobody else carries the migration on or back meanwhile.
    """
    with discreet():
        target = target_of(database)
        with open_runner(target, migration) as runner:
            chosen = _gate_of(runner.plan.phase(phase), gate)
            if any(check.kind == "unfilled" for check in chosen.checks):
                # It asks whether both shapes are in step: bring in step what was repaired since.
                runner.settle(show_progress)
            result = ask(chosen, phase, standing_of(target, migration), target)
            runner.ledger.record_gate(migration, result)
        publish_gate(migration, result)
        tell(result)
        if not result.success:
            raise failure(result, migration)


def _gate_of(phase: Phase, name: str) -> Gate:
    return next(found for found in (phase.gate_before, phase.gate_after) if found is not None and found.name == name)


def evaluate(standing: Standing, phase: Phase, gate: str, target: Target) -> GateResult:
    """Run a gate of the plan and return what it found; records nothing."""
    return ask(_gate_of(phase, gate), phase.name, standing, target)


def ask(chosen: Gate, phase: str, standing: Standing, target: Target) -> GateResult:
    """Evaluate a gate, of the plan or made for the moment."""
    return run_gate(
        chosen,
        phase=phase,
        target=target,
        settings=standing.plan.settings,
        docs=docs_folder(standing.name),
        suites_root=suites_root(chosen, standing.spec_folder),
    )


def docs_folder(migration: str) -> Path:
    """Return where a migration's Data Docs are kept on this machine."""
    return platformdirs.user_data_path("lockstep") / "docs" / key_of(migration)


def suites_root(gate: Gate, folder: Path | None) -> Path | None:
    """Return what the paths of the user's suites start from: the spec's folder, else the working directory.

    On another worker the folder of planning may be missing; a gate whose suites are nowhere fails.
    """
    for root in (folder, Path.cwd()):
        if root is not None and all((root / suite).is_file() for suite in gate.user_suites):
            return root
    return folder


def tell(result: GateResult) -> None:
    """Say what a gate found: one sentence, and one for every check that fails."""
    seconds = (result.finished_at - result.started_at).total_seconds()
    verdict = "holds" if result.success and not result.warnings else "warns" if result.success else "FAILS"
    say(f"gate {result.gate}: {verdict} ({len(result.checks)} checks, {seconds:.1f} s)")
    for check in (*result.critical, *result.warnings):
        say(f"  {check.severity}: {check.summary}")


def failure(result: GateResult, migration: str) -> GateFailed:
    """Return the error of a gate that failed, with what to do about it."""
    failures = tuple(check.summary for check in result.critical) or ("nothing was evaluated",)
    return GateFailed(
        f"The gate {result.gate} of {migration} fails: {'; '.join(failures)}",
        gate=result.gate,
        failures=failures,
        corruption=result.corruption,
        remedy=f"Repair what it names and run again, or go back:  lockstep rollback {migration}",
    )


def main_gate(phases: Sequence[Phase]) -> tuple[Phase, Gate] | None:
    """Return the gate that compares the two shapes: the first with a parity check, else the plan's last gate."""
    gates = [(phase, gate) for phase in phases for gate in (phase.gate_before, phase.gate_after) if gate is not None]
    return next(
        (found for found in gates if any(check.kind == "parity" for check in found[1].checks)),
        gates[-1] if gates else None,
    )
