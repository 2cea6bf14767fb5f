"""How a run gets over what it waits for: words given in advance, the form of a suspended run, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prefect import suspend_flow_run
from prefect.runtime import deployment

from tasks.approval import ApprovalInput, record, waiting
from tasks.databases import target_of
from tasks.outcome import begin, hold
from tasks.standing import CONTRACT, Standing, Wait, standing_of


@dataclass(frozen=True)
class Consent:
    """Who gives the approvals of one run in advance, if anybody does, and whether the soak is waived with them."""

    migration: str
    database: str
    approved_by: str | None
    waive_soak: bool

    def settle(self, due: Callable[[Standing], Wait | None]) -> None:
        """Get the word that is needed to go on, or raise `Waiting`. Nobody's word opens a maintenance window."""
        names = (self.migration, self.database)
        while (pending := due(standing := self.standing())) is not None:
            if self.approved_by and self._is_given(pending):
                word = ApprovalInput(who=self.approved_by, why="given in advance for the whole run")
            elif pending.reason == "approval" and deployment.id:
                hold(pending.question, *names)
                form = ApprovalInput.with_initial_data(description=pending.question)
                # The run ends here and starts anew when somebody has filled in the form; then this call returns it.
                word = suspend_flow_run(wait_for_input=form, key=f"{pending.subject}-{len(standing.approvals)}")
                begin(*names)
            else:
                raise waiting(standing, pending)
            waive = self.waive_soak and pending.subject == CONTRACT and bool(self.approved_by)
            record(target_of(self.database), self.migration, pending.subject, word, waive_soak=waive)
            if not word.approve:
                raise waiting(standing, pending)

    def standing(self) -> Standing:
        """Return where the migration stands now."""
        return standing_of(target_of(self.database), self.migration)

    def _is_given(self, pending: Wait) -> bool:
        return pending.reason == "approval" or (pending.reason == "soak" and self.waive_soak)
