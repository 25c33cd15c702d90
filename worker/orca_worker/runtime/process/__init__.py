"""Tasks as plain processes, for nodes without an engine."""
