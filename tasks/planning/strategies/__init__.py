"""How a change is carried out: one package a strategy, one module a kind of change."""
