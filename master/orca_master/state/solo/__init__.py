"""The log of a cluster with one master: durable on one disk, in append-only checksummed files."""

from orca_master.state.solo.log import SoloLog

__all__ = ["SoloLog"]
