"""The version of what is installed."""

from importlib.metadata import PackageNotFoundError, version


def orca_version() -> str:
    try:
        return version("orca-cluster")
    except PackageNotFoundError:
        return "0+unknown"
