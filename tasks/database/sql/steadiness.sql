-- name: file
SELECT pg_relation_filenode(to_regclass(%(table)s))

-- name: volatile_functions
-- Every volatile function that the temporary view calls, by name or by operator, in subqueries too.
WITH rule AS (
    SELECT ev_action::text AS tree FROM pg_rewrite WHERE ev_class = 'pg_temp.lockstep_condition'::regclass
)
SELECT function.oid::regprocedure::text
  FROM pg_proc AS function
 WHERE function.provolatile = 'v'
   AND function.oid IN (
       SELECT match[1]::oid
         FROM rule CROSS JOIN regexp_matches(rule.tree, ':(?:funcid|opfuncid) (\d+)', 'g') AS match
       UNION
       SELECT operator.oprcode
         FROM rule CROSS JOIN regexp_matches(rule.tree, ':(?:opno|opnos \(o) ([\d ]+)', 'g') AS match
        CROSS JOIN regexp_split_to_table(btrim(match[1]), ' ') AS number
         JOIN pg_operator AS operator ON operator.oid = number::oid)
 ORDER BY 1
