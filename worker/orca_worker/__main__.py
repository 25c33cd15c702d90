"""`python -m orca_worker`."""

from orca_worker.main import main

main()
