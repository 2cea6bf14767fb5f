"""Floor 0: what a migration means and how it will be carried out, as data. No connection, no Prefect."""
