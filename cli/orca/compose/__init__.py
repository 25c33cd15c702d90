"""From Docker Compose files to service files."""
