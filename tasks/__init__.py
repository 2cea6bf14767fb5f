"""Lockstep's building blocks: Prefect tasks here, planning (pure) and database (psycopg) below.

This package imports nothing: Prefect alone costs seconds, and `lockstep --help` must not pay them.
"""
