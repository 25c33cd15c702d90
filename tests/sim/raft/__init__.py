"""The simulation of several masters."""
