"""The simulated drink-water application: writes while a migration runs, and remembers what was acknowledged.

It stands where a real application would: its clients have connections of their own, know only their own shape of
the tables and nothing of Lockstep. Its record of acknowledged writes is kept outside the database, so that it is a
witness of its own at the end.
"""
