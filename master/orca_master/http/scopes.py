"""Queries for what a project has, or the whole cluster for all projects: secrets, accounts."""

from typing import Annotated

from pydantic import Field

from orca_master.http.names import Name
from orca_master.http.route import QueryModel


class ScopeQuery(QueryModel):
    project: Annotated[
        Name | None, Field(description="Of this project; else of the whole cluster.")
    ] = None


class VisibleQuery(QueryModel):
    project: Annotated[
        Name | None, Field(description="This project's and the cluster's; else all.")
    ] = None
