"""Which route a request is for: whole paths are looked up, templates are matched part by part."""

from collections.abc import Iterable
from enum import StrEnum

from orca_master.errors import MethodNotAllowed, NotFound
from orca_master.http.route import Open, Route

Parts = dict[str, str]
"""What stands in a path where its template has names."""

SHOWN_CHARACTERS = 200


class RouteTable:
    """Raises ValueError for two routes of one method and path, and for one that needs no permission
    without saying so."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._whole: dict[str, dict[str, Route]] = {}
        self._templates: dict[int, dict[tuple[str, ...], dict[str, Route]]] = {}
        for route in routes:
            if not isinstance(route.permission, StrEnum | Open) or not str(route.permission):
                raise ValueError(
                    f"{route.method} {route.path} has no permission:"
                    " give it one, or say with Open why it needs none"
                )
            by_method = self._of(route.path)
            if route.method in by_method:
                raise ValueError(f"two routes for {route.method} {route.path}")
            by_method[route.method] = route

    def _of(self, path: str) -> dict[str, Route]:
        if "{" not in path:
            return self._whole.setdefault(path, {})
        template = tuple(path.split("/"))
        return self._templates.setdefault(len(template), {}).setdefault(template, {})

    def find(self, method: str, path: str) -> tuple[Route, Parts]:
        """`path` is decoded but for `%2F` and `%25`; one slash at its end says nothing.

        Raises NotFound, MethodNotAllowed.
        """
        path = path.removesuffix("/") or path
        whole = self._whole.get(path, {})
        if method in whole:
            return whole[method], {}
        allowed = set(whole)
        parts = path.split("/")
        for template, by_method in self._templates.get(len(parts), {}).items():
            found = _matched(template, parts)
            if found is None:
                continue
            if method in by_method:
                return by_method[method], found
            allowed.update(by_method)
        if allowed:
            raise MethodNotAllowed(method, sorted(allowed))
        raise NotFound("path", path[:SHOWN_CHARACTERS])


def _matched(template: tuple[str, ...], parts: list[str]) -> Parts | None:
    found: Parts = {}
    for wanted, part in zip(template, parts, strict=True):
        if wanted.startswith("{"):
            if not part:
                return None
            found[wanted[1:-1]] = part.replace("%2F", "/").replace("%25", "%")
        elif wanted != part:
            return None
    return found
