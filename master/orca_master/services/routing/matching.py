"""Which requests are meant, as people write it: by a header or a cookie."""

from typing import Annotated

from pydantic import Field, model_validator

from orca_master.http.route import StrictModel
from orca_master.services.routing.model import Match

Header = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,99}$")]
Value = Annotated[str, Field(pattern=r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$", max_length=256)]


class MatchIn(StrictModel):
    """A request that shows a header or a cookie."""

    header: Header | None = None
    cookie: Header | None = None
    value: Annotated[Value | None, Field(description="Just this one; else any.")] = None

    @model_validator(mode="after")
    def _check(self) -> "MatchIn":
        if (self.header is None) == (self.cookie is None):
            raise ValueError("give header or cookie")
        return self

    def row(self) -> Match:
        name = self.header.lower() if self.header is not None else self.cookie or ""
        return Match(name, self.value or "", cookie=self.cookie is not None)
