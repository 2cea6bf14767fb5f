"""Benchmarks: programs, not tests. pytest collects nothing here, and no test asserts a time.

``python -m tests.benchmarks.backfill --rows 5000000``
"""
