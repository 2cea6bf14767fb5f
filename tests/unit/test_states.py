"""The transition tables: complete, and nothing that is over comes back to life."""

import pytest

from tasks.planning.states import (
    MIGRATION_TRANSITIONS,
    PHASE_TRANSITIONS,
    STEP_TRANSITIONS,
    UNFINISHED,
    IllegalTransition,
    MigrationState,
    PhaseState,
    StepState,
    check_transition,
)


def test_every_state_is_in_its_table_and_may_be_entered_again() -> None:
    for state in MigrationState:
        check_transition(MIGRATION_TRANSITIONS, state, state)
    for phase in (PhaseState.PENDING, PhaseState.RUNNING, PhaseState.FAILED, PhaseState.DONE, PhaseState.UNDONE):
        check_transition(PHASE_TRANSITIONS, phase, phase)
    assert set(PHASE_TRANSITIONS) == set(PhaseState)
    assert set(STEP_TRANSITIONS) == set(StepState)


@pytest.mark.parametrize(
    ("current", "wanted"),
    [
        (MigrationState.PLANNED, MigrationState.FINISHED),
        (MigrationState.FINISHED, MigrationState.RUNNING),
        (MigrationState.FINISHED, MigrationState.ROLLING_BACK),
        (MigrationState.ROLLED_BACK, MigrationState.RUNNING),
        (MigrationState.CLEANED, MigrationState.RUNNING),
    ],
)
def test_what_is_over_or_not_begun_is_not_skipped(current: MigrationState, wanted: MigrationState) -> None:
    with pytest.raises(IllegalTransition, match=f"{current} cannot become {wanted}"):
        check_transition(MIGRATION_TRANSITIONS, current, wanted)


def test_a_done_step_is_not_run_again_unless_undone() -> None:
    with pytest.raises(IllegalTransition):
        check_transition(STEP_TRANSITIONS, StepState.DONE, StepState.RUNNING)
    check_transition(STEP_TRANSITIONS, StepState.UNDONE, StepState.RUNNING)


def test_a_migration_over_its_tables_is_unfinished_until_it_ended() -> None:
    over = {MigrationState.PLANNED, MigrationState.FINISHED, MigrationState.ROLLED_BACK, MigrationState.CLEANED}
    assert set(MigrationState) - over == UNFINISHED
