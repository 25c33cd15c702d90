"""The access log: a line for each request that is worth one, without its secrets."""

import logging
from enum import StrEnum
from urllib.parse import parse_qsl, urlencode

from orca_common.logs import get_logger
from orca_master.http.asked import Asked

SHOWN_CHARACTERS = 300
HIDDEN = "***"
_SECRETS = ("token", "secret", "password", "key", "signature", "code")

log = get_logger("access")


class Access(StrEnum):
    """Which requests are worth a line. What changes something is in the trail anyway."""

    ALL = "all"
    ERRORS = "errors"
    """What a master failed at: 5xx. At log level debug the others, too."""
    OFF = "off"


class AccessLog:
    def __init__(self, access: Access = Access.ERRORS) -> None:
        self.access = access

    def note(self, asked: Asked, status: int, seconds: float, client: str) -> None:
        is_worth_it = self.access is Access.ALL or status >= 500
        if self.access is Access.OFF or not (is_worth_it or log.is_enabled_for(logging.DEBUG)):
            return
        (log.info if is_worth_it else log.debug)(
            "request answered",
            method=asked.request.method,
            target=shown_target(asked.request.raw_path),
            status=status,
            seconds=round(seconds, 4),
            client=client,
            caller=asked.caller.name if asked.caller is not None else None,
            request_id=asked.id,
            trace_id=asked.trace_id,
        )


def shown_target(raw: str) -> str:
    """The path and the query, with the values of what may be secret hidden, and cut off."""
    path, mark, query = raw.partition("?")
    if mark:
        values = [
            (name, HIDDEN if any(word in name.lower() for word in _SECRETS) else value)
            for name, value in parse_qsl(query, keep_blank_values=True)
        ]
        path = f"{path}?{urlencode(values, safe='*')}"
    return path[:SHOWN_CHARACTERS]
