"""The flow of an expand-contract migration: gate, phase, gate, and a person's word where the plan asks for it."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import State, flow
from prefect.states import Completed

from flows.chain import Chain
from flows.consent import Consent
from flows.naming import run_name
from flows.rollback import rollback
from tasks.gate import check_gate
from tasks.narration import say
from tasks.outcome import Outcome, begin, fail, finish, stop, wait
from tasks.phase import close_phase, open_switch, run_phase
from tasks.plan import Planned, plan_migration
from tasks.planning.errors import GateFailed, Waiting
from tasks.planning.plan import Gate, Phase
from tasks.queries import time_queries
from tasks.standing import SWITCH
from tasks.window import ignore_window


@flow(name="expand-contract", flow_run_name=run_name, persist_result=False, retries=0)
def expand_contract(
    migration: str,
    database: str | None = None,
    until: str | None = None,
    approved_by: str | None = None,
    waive_soak: bool = False,
    ignore_window: bool = False,
) -> State[Outcome] | Outcome:
    """Carry a migration (a spec's path or a recorded name) on, from where the ledger says it is, as far as it goes.

    `until`: a phase to stop after; `approved_by`: who gives every approval; `ignore_window`: heavy phases work at any
    time. Prefect stores them all in plain text.
    """
    planned = plan_migration(migration, database, until)
    if isinstance(planned, Outcome):
        return planned
    consent = Consent(planned.name, planned.database, approved_by, waive_soak)
    return _Run(planned, consent, until, ignore_window).carry_on()


@dataclass
class _Run:
    """One run of the flow: what was asked for, and the phase it is at."""

    planned: Planned
    consent: Consent
    until: str | None
    ignore_window: bool
    phase: str | None = None

    def __post_init__(self) -> None:
        self.names = (self.planned.name, self.planned.database)
        self.then = Chain(self.planned)

    def carry_on(self) -> State[Outcome] | Outcome:
        begin(*self.names)
        time_queries(*self.names, "before")
        try:
            if self.ignore_window:
                ignore_window(*self.names, self.consent.approved_by)
            for name in self.planned.phases:
                self.phase = name
                self._carry_out(name)
                if name == self.until:
                    return stop(*self.names, name)
            time_queries(*self.names, "at the end")
            return finish(*self.names)
        except Waiting as due:
            outcome = wait(due, *self.names)
            return Completed(name="Waiting", message=outcome.what, data=outcome)
        except Exception as error:
            fail(error, *self.names, self.phase)
            if isinstance(error, GateFailed) and error.corruption and not self.consent.standing().record.switched_at:
                self._go_back(error)
            raise

    def _carry_out(self, name: str) -> None:
        standing = self.consent.standing()
        phase = standing.plan.phase(name)
        if standing.finished(phase):
            say(f"phase {name}: was done before")
        else:
            self.consent.settle(lambda now: now.wait_before(phase))
            self._enter(phase)
            if not standing.begun(phase):
                self._check(phase, phase.gate_before)
            if not standing.carried_out(phase) and (due := self._work(name)) is not None:
                raise due
            self._enter(phase)
            self._check(phase, phase.gate_after)
            close_phase(*self.names, name)
        if name == SWITCH and self.consent.standing().record.switched_at is None:
            open_switch(*self.names)
            time_queries(*self.names, "after switch")

    def _enter(self, phase: Phase) -> None:
        """Raise `Waiting` where the window keeps a heavy phase, or one of its gates, from beginning."""
        if not self.ignore_window:
            self.consent.settle(lambda now: now.wait_for_window(phase))

    def _work(self, name: str) -> Waiting | None:
        return self.then(run_phase, *self.names, name, ignore_window=self.ignore_window)

    def _check(self, phase: Phase, gate: Gate | None) -> None:
        if gate is not None:
            self.then(check_gate, *self.names, phase.name, gate.name)
            self.consent.settle(lambda now: now.wait_after(phase, gate))

    def _go_back(self, error: GateFailed) -> None:
        say(f"{error.gate} found wrong data before the switch: going back by itself.")
        rollback(*self.names)
        error.safety = "Lockstep went back by itself: the old shape is as it was, and nothing of the new one is left."
        error.remedy = "Repair what the gate names, then run the migration again."
