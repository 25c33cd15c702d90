"""The commands of `orca`, one module a topic."""
