"""Floor 1: the gates, on Great Expectations, which is imported only when a gate runs."""
