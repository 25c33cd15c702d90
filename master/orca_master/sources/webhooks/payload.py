"""A webhook, as people register it."""

from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from orca_master.http.names import Name
from orca_master.http.route import QueryModel, StrictModel
from orca_master.sources.webhooks.matching import check_template

LEAST_SECRET = 16

Glob = Annotated[str, Field(max_length=300, pattern=r"^[^\x00-\x20]*$")]
Template = Annotated[
    str,
    Field(max_length=512, pattern=r"^[^\s\x00-\x1f]*$"),
    AfterValidator(check_template),
    WithJsonSchema(
        {
            "type": "string",
            "maxLength": 512,
            "pattern": "^([a-z0-9][a-z0-9./:-]*(:\\{(sha|short_sha|branch|tag)\\})?)?$",
            "examples": ["registry.example/shop/web:{sha}"],
        }
    ),
]


class HookIn(StrictModel):
    """Pushes to `repo` that fit deploy `service_name`."""

    repo: Annotated[
        str,
        Field(
            min_length=1,
            max_length=300,
            pattern=r"^[^\s\x00-\x1f]+$",
            description="As the forge names it: `owner/name`.",
        ),
    ]
    service_name: Name
    project: Name = "default"
    forge: Annotated[str, Field(pattern="^(github|gitea|gitlab|bitbucket|registry|generic)$")] = (
        "github"
    )
    branch: Annotated[
        Glob, Field(description="A branch, or a glob such as `release/*`; empty: none.")
    ] = "main"
    tag: Annotated[Glob, Field(description="A tag, or a glob such as `v*`; empty: none.")] = ""
    path: Annotated[
        list[Glob],
        Field(max_length=50, description="Only when a changed file fits one of these."),
    ] = Field(default_factory=list)
    not_path: Annotated[
        list[Glob], Field(max_length=50, description="Changes of these files alone do nothing.")
    ] = Field(default_factory=list)
    image: Annotated[
        Template,
        Field(
            description="What is deployed, with `{sha}`, `{short_sha}`, `{branch}`, `{tag}`; without it"
            " the service's own image is looked up again."
        ),
    ] = ""
    secret: Annotated[
        str | None,
        Field(
            min_length=LEAST_SECRET,
            max_length=300,
            pattern=r"^[\x21-\x7e]+$",
            description="At least 16 characters; one is made, and shown once, if none is given.",
        ),
    ] = None
    signing: Annotated[
        bool,
        Field(description="GitLab only: it signs (a signing token) instead of sending its secret."),
    ] = False

    @model_validator(mode="after")
    def _check(self) -> "HookIn":
        mistakes = []
        if self.signing and self.forge != "gitlab":
            mistakes.append("signing is for forge gitlab")
        if not self.branch and not self.tag:
            mistakes.append("give a branch or a tag, or nothing would ever fit")
        if self.forge == "registry" and not self.tag:
            mistakes.append("a registry pushes tags: give tag, such as `*`")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self


class RotateIn(StrictModel):
    secret: Annotated[
        str | None,
        Field(min_length=LEAST_SECRET, max_length=300, pattern=r"^[\x21-\x7e]+$"),
    ] = None
    overlap: Annotated[
        float, Field(ge=0, le=30 * 86400.0, description="Seconds that the old one is still taken.")
    ] = 86400.0


class AgainIn(StrictModel):
    delivery: Annotated[int, Field(ge=1, le=1 << 53)]


class DeliveriesQuery(QueryModel):
    limit: Annotated[int, Field(ge=1, le=100)] = 20
