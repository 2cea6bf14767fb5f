"""Floor 3: order and policy. Flows and the command line; no SQL, no psycopg."""
