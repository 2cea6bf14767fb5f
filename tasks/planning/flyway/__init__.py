"""A folder of Flyway migrations, read as Flyway itself reads it: names, versions, checksums, states, transactions."""
