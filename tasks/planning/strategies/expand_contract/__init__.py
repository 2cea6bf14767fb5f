"""Expand-contract: both shapes live side by side, a trigger keeps them in step, one room a kind of change."""
