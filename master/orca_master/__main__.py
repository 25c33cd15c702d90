"""`python -m orca_master`."""

from orca_master.app.main import main

main()
