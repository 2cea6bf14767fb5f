"""Findings: what a statement would do to the running application, as rules that are data, and judged by what was seen.

A rule's condition is a small function over one `Moment`: a statement's facts, and those of the statements around it.
`catalogue` lists the rules, `judging` applies them, `page` makes docs/findings.md of them.
"""
