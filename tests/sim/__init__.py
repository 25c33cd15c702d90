"""A world in one process for tests: virtual disk, time and randomness, all from one seed."""
