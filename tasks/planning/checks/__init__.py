"""Builders of a gate's checks: pure functions from catalog values to the text of one read-only SELECT each.

One module a question::

    references   does every reference have its row?            orphans
    uniqueness   would this unique key hold?                    duplicates
    rules        does a condition hold for every row?           rule, not_null, evaluates
    parity       do the two shapes of a table say the same?     parity
    aggregates   what do both shapes add up to?                 aggregates, row_count
    sync         is the sync behind, or has it failed?          unfilled, sync_failures, sync_conflicts, old_writers
    triggers     does the sync trigger fire?                   sync_trigger
    validity     are indexes and constraints in force?          index_validity, constraint_validity
    suites       which of them make up the gate of a phase?     preflight_gate … final_gate

Every statement is one SELECT, so one snapshot, without bind parameters, and returns one row
``(failing bigint, evaluated bigint, sample jsonb, observed jsonb)`` as `tasks.planning.plan.Check` describes. A
failing check says how many units fail and the keys of up to ten of them, nothing else of a row. An expression of the
user's that raises makes its statement raise, and a check that raised has failed.
"""
