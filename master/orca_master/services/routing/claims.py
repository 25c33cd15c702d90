"""Whose a domain is: of one project, and each of its paths of one service. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from orca_master.services.model import SERVICES
from orca_master.services.routing.model import Routing
from orca_master.state.table import View


@dataclass(slots=True)
class Claims:
    """`projects`: by domain. `services`: (project, name) by domain and path."""

    projects: dict[str, str] = field(default_factory=dict)
    services: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)

    def take(self, project: str, name: str, routing: Routing) -> None:
        for domain in routing.domains:
            self.projects.setdefault(domain, project)
            for path in routing.paths:
                self.services.setdefault((domain, path), (project, name))

    def against(self, project: str, name: str, routing: Routing) -> list[str]:
        """Why these may not be this service's too: one sentence for each domain."""
        said = []
        for domain in routing.domains:
            if self.projects.get(domain, project) != project:
                said.append(
                    f"domain {domain} belongs to project {self.projects[domain]}: remove it there first"
                )
                continue
            for path in routing.paths:
                owner = self.services.get((domain, path), (project, name))
                if owner != (project, name):
                    said.append(
                        f"{domain}{path} belongs to service {owner[1]} already: give other routes"
                    )
                    break
        return said


def claims(view: View, tenant: str, *, but: Iterable[tuple[str, str]] = ()) -> Claims:
    """All of them. `but`: (project, name) of services whose claims do not count."""
    found, left_out = Claims(), set(but)
    for service in view.find(SERVICES, "routed", "yes"):
        is_other = service.tenant == tenant and (service.project, service.name) not in left_out
        if is_other and not service.purge:
            found.take(service.project, service.name, service.policy.routing)
    return found
