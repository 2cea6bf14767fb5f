"""A simulated application: live load for the demo and the tests, with its own record of what was acknowledged."""
