"""Approvals: what a migration waits for, and decisions about it, which the ledger keeps."""

from __future__ import annotations

from prefect.input import RunInput
from pydantic import Field

from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger
from tasks.database.throttle import paused
from tasks.narration import say
from tasks.person import present_user as present_user
from tasks.planning import fit
from tasks.planning.errors import UsageError, Waiting
from tasks.planning.fit import Obstacle
from tasks.standing import CONTRACT, Standing, Wait, standing_of


class ApprovalInput(RunInput):
    """The form that Prefect shows for a suspended run."""

    approve: bool = Field(default=True, description="Go on?")
    who: str = Field(default="", description="Who decides")
    why: str = Field(default="", description="Why; kept in the ledger")


def record(target: Target, migration: str, subject: str, decision: ApprovalInput, *, waive_soak: bool = False) -> None:
    """Keep a decision about a phase, or about the warnings of a gate, in the ledger."""
    with connect(target, role="approve") as connection:
        Ledger(connection).approve(
            migration,
            subject,
            who=decision.who or "somebody, through Prefect's form",
            why=decision.why,
            decision="approved" if decision.approve else "rejected",
            waive_soak=waive_soak,
        )
    what = "approved" if decision.approve else "rejected"
    say(f"{migration}: {subject} {what} by {decision.who or 'somebody'}{', soak waived' if waive_soak else ''}.")


def approve_next(target: Target, migration: str, *, who: str, why: str, waive_soak: bool) -> str:
    """Approve what a migration waits for, and return what that was.

    Raises UsageError when it waits for nothing, Waiting when only time is missing.
    """
    standing = standing_of(target, migration)
    wait = standing.when_resumed.waits_for
    if wait is None:
        raise UsageError(
            f"{migration} waits for no approval; it is {standing.state.value.replace('_', ' ')}.",
            remedy=f"See  lockstep status {migration}",
        )
    if wait.reason == "window":
        raise waiting(standing, wait)
    if waive_soak and wait.subject != CONTRACT:
        raise UsageError(f"{migration} waits for {wait.subject}, which has no soak.", remedy="Leave out --waive-soak.")
    if wait.reason == "soak" and not waive_soak and not standing.needs_word(wait.subject):
        raise only_soak(standing, wait)
    record(target, migration, wait.subject, ApprovalInput(who=who, why=why), waive_soak=waive_soak)
    return wait.subject


def only_soak(standing: Standing, wait: Wait) -> Waiting:
    """Return the exception that says that nobody has to approve anything, but that a soak is not over."""
    decision = standing.decision(wait.subject)
    approved = decision is not None and decision.decision == "approved"
    given = f"is approved already, by {decision.who}" if decision is not None and approved else "needs no approval"
    again = waiting(standing, wait)
    return Waiting(
        f"{wait.subject} of {standing.name} {given}. {wait.question}",
        reason=again.reason,
        phase=again.phase,
        remedy=again.remedy,
    )


def waiting(standing: Standing, wait: Wait) -> Waiting:
    """Return the exception that says what is waited for and which command comes next."""
    run = f"lockstep run {standing.name} --database {standing.plan.database}"
    approve = f"lockstep approve {standing.name}"
    match wait.reason:
        case "pause":
            return paused(standing.name, standing.plan.database, wait.subject, standing.throttle.pause or "paused")
        case "window":
            return fit.waiting(standing.name, standing.plan.database, wait.subject, Obstacle(wait.question, wait.until))
        case "soak":
            remedy = f"Then:  {run}\nNow already:  {approve} --waive-soak --why '…'  and the same."
        case "approval":
            remedy = f"{approve}  and then  {run}"
    return Waiting(
        f"{standing.name} waits before {wait.subject}: {wait.question}",
        reason=wait.reason,
        phase=wait.subject,
        remedy=remedy,
    )
