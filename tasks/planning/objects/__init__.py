"""Statements that are run as they are written: what each did on the clone, where it stands, what takes it back."""
