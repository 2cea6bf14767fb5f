"""Commands that look and judge: `lockstep verify` and `lockstep doctor`."""

from __future__ import annotations

from flows import console, known
from tasks.databases import target_of
from tasks.doctor import examine
from tasks.plan_source import databases
from tasks.planning.errors import UsageError
from tasks.planning.gates import CheckResult, GateResult
from tasks.standing import standing_of

MARKS = {"ok": "ok", "look": "look", "fix": "FIX"}


def verify(name: str, database: str | None, form: str) -> int:
    """Run the gate that compares the shapes, print what it finds, and record nothing."""
    from tasks.gate import evaluate, main_gate

    target = target_of(known.database_of(name, database))
    standing = standing_of(target, name)
    found = main_gate(standing.plan.phases)
    if found is None:
        raise UsageError(f"The plan of {name} has no gate.")
    phase, gate = found
    if not standing.carried_out(phase):
        raise UsageError(
            f"{name} has not come to the gate {gate.name} yet: it belongs to {phase.name}.",
            remedy=f"See  lockstep status {name}",
        )
    result = evaluate(standing, phase, gate.name, target)
    if form == "json":
        console.print_json(result.model_dump(mode="json") | {"success": result.success})
    else:
        _print_gate(result)
    return console.EXIT_DONE if result.success else console.EXIT_FAILED


def doctor(database: str | None, form: str) -> int:
    """Print what was looked at and what to fix; exit code 1 if anything has to be fixed."""
    findings = examine((database,) if database else databases())
    if form == "json":
        console.print_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            console.out().print(f"{MARKS[finding.verdict]:5}{finding.subject}: {finding.detail}", markup=False)
            if finding.fix:
                console.out().print(f"     → {finding.fix}", markup=False, style="bold")
    return console.EXIT_FAILED if any(finding.verdict == "fix" for finding in findings) else console.EXIT_DONE


def finding(check: CheckResult) -> str:
    """Return a check's result in one line; of one that had no row to look at, that it had none."""
    return f"{check.title}: holds, with nothing to look at" if check.success and not check.evaluated else check.summary


def _print_gate(result: GateResult) -> None:
    out = console.out()
    out.print(f"{result.gate}: {'holds' if result.success else 'FAILS'}", style="bold", markup=False)
    for check in sorted(result.checks, key=lambda check: check.success):
        out.print(f"  {'ok' if check.success else check.severity:9}{finding(check)}", markup=False)
    if result.docs:
        out.print(f"Data Docs: {result.docs}", markup=False)
