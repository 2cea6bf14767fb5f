"""The spec: what the user wants, as YAML or as a bare ``.sql`` file. Everything but the change is optional."""
