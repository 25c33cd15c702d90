"""Which certificate is shown for a domain: of those that cover it, the one that lasts longest. Pure."""

from collections.abc import Iterable

from orca_master.ingress.certificates.model import CERTIFICATES, Certificate
from orca_master.ingress.certificates.reading import covers
from orca_master.services.model import Service
from orca_master.state.table import View


def chosen(certificates: Iterable[Certificate], domain: str, project: str) -> Certificate | None:
    """`project`: whose the domain is; another project's certificate is not taken."""
    fitting = [
        each
        for each in certificates
        if covers(domain, each.domains) and each.project in ("", project)
    ]
    return max(fitting, key=lambda each: (each.not_after, each.name), default=None)


def certificates(view: View, services: Iterable[Service]) -> dict[str, Certificate]:
    """By domain, of all domains of these services that have one."""
    known: dict[str, list[Certificate]] = {}
    for each in view.scan(CERTIFICATES):
        known.setdefault(each.tenant, []).append(each)
    found = {}
    for service in services:
        for domain in service.policy.routing.domains:
            one = chosen(known.get(service.tenant, ()), domain, service.project)
            if one is not None:
                found[domain] = one
    return found
