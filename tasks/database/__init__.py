"""Floor 1: everything that talks to PostgreSQL. Knows neither Prefect nor Great Expectations."""
