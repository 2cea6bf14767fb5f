"""The flow of an expand-contract migration: gate, phase, gate, and a person's word where the plan asks for it."""

from __future__ import annotations

from collections.abc import Callable

from prefect import State, flow, suspend_flow_run
from prefect.runtime import deployment
from prefect.states import Completed

from flows.chain import Chain
from flows.naming import run_name
from flows.rollback import rollback
from tasks.approval import ApprovalInput, record, waiting
from tasks.databases import target_of
from tasks.gate import check_gate
from tasks.narration import say
from tasks.outcome import Outcome, begin, fail, finish, hold, stop, wait
from tasks.phase import close_phase, open_switch, run_phase
from tasks.plan import Planned, plan_migration
from tasks.planning.errors import GateFailed, Waiting
from tasks.planning.plan import Gate, Phase
from tasks.standing import CONTRACT, SWITCH, Standing, Wait, standing_of


@flow(name="expand-contract", flow_run_name=run_name, persist_result=False, retries=0)
def expand_contract(
    migration: str,
    database: str | None = None,
    until: str | None = None,
    approved_by: str | None = None,
    waive_soak: bool = False,
) -> State[Outcome] | Outcome:
    """Carry a migration (a spec's path or a recorded name) on, from where the ledger says it is, as far as it goes.

    `until`: a phase to stop after; `approved_by`: who gives every approval. Prefect stores them all in plain text.
    """
    planned = plan_migration(migration, database, until)
    if isinstance(planned, Outcome):
        return planned
    return _Run(planned, until, approved_by, waive_soak).carry_on()


class _Run:
    """One run of the flow: what was asked for, and the phase it is at."""

    def __init__(self, planned: Planned, until: str | None, approved_by: str | None, waive_soak: bool) -> None:
        self.names = (planned.name, planned.database)
        self.planned = planned
        self.then = Chain(planned)
        self.until = until
        self.approved_by = approved_by
        self.waive_soak = waive_soak
        self.phase: str | None = None

    def carry_on(self) -> State[Outcome] | Outcome:
        begin(*self.names)
        try:
            for name in self.planned.phases:
                self.phase = name
                self._carry_out(name)
                if name == self.until:
                    return stop(*self.names, name)
            return finish(*self.names)
        except Waiting as due:
            outcome = wait(due, *self.names)
            return Completed(name="Waiting", message=outcome.what, data=outcome)
        except Exception as error:
            fail(error, *self.names, self.phase)
            if isinstance(error, GateFailed) and error.corruption and not self._standing().record.switched_at:
                self._go_back(error)
            raise

    def _carry_out(self, name: str) -> None:
        standing = self._standing()
        phase = standing.plan.phase(name)
        if standing.finished(phase):
            say(f"phase {name}: was done before")
        else:
            if not standing.begun(phase):
                self._settle(lambda now: now.wait_before(phase))
                self._check(phase, phase.gate_before)
            if not standing.carried_out(phase):
                self.then(run_phase, *self.names, name)
            self._check(phase, phase.gate_after)
            close_phase(*self.names, name)
        if name == SWITCH and self._standing().record.switched_at is None:
            open_switch(*self.names)

    def _check(self, phase: Phase, gate: Gate | None) -> None:
        if gate is not None:
            self.then(check_gate, *self.names, phase.name, gate.name)
            self._settle(lambda now: now.wait_after(phase, gate))

    def _settle(self, due: Callable[[Standing], Wait | None]) -> None:
        """Get the word that is needed to go on, or raise `Waiting`."""
        while (pending := due(standing := self._standing())) is not None:
            if self.approved_by and (pending.reason == "approval" or self.waive_soak):
                word = ApprovalInput(who=self.approved_by, why="given in advance for the whole run")
            elif pending.reason == "approval" and deployment.id:
                hold(pending.question, *self.names)
                form = ApprovalInput.with_initial_data(description=pending.question)
                # The run ends here and starts anew when somebody has filled in the form; then this call returns it.
                word = suspend_flow_run(wait_for_input=form, key=f"{pending.subject}-{len(standing.approvals)}")
                begin(*self.names)
            else:
                raise waiting(standing, pending)
            waive = self.waive_soak and pending.subject == CONTRACT and bool(self.approved_by)
            record(target_of(self.names[1]), self.names[0], pending.subject, word, waive_soak=waive)
            if not word.approve:
                raise waiting(standing, pending)

    def _go_back(self, error: GateFailed) -> None:
        say(f"{error.gate} found wrong data before the switch: going back by itself.")
        rollback(*self.names)
        error.safety = "Lockstep went back by itself: the old shape is as it was, and nothing of the new one is left."
        error.remedy = "Repair what the gate names, then run the migration again."

    def _standing(self) -> Standing:
        return standing_of(target_of(self.names[1]), self.names[0])
