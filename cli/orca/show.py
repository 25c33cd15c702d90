"""How the command line prints: tables for people, JSON and YAML for machines.

Whatever a server said goes through here: none of it moves the cursor, changes a colour or turns the
direction of writing, on a terminal or in a file that is looked at later.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import click

_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c|(?=[\x1b\n])|$)"
    r"|\x1b[ -/]*[0-~]"  # any other escape
)
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # the direction of writing
    r"\u2028\u2029\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")

COLOURS = {
    "running": "green",
    "ready": "green",
    "updating": "cyan",
    "pending": "yellow",
    "degraded": "yellow",
    "failed": "red",
    "down": "red",
}
FORMATS = ("table", "json", "yaml")

output_option: Callable[[Any], Any] = click.option(
    "-o", "--output", type=click.Choice(FORMATS), default="table", help="How to print."
)


def clean_lines(text: str) -> str:
    """Without escapes and control characters, but with ends of lines and tabs."""
    return _CONTROLS.sub("", _SEQUENCES.sub("", text))


def keep_colours(text: str) -> str:
    """As `clean_lines`, but the colours stay, and end with each line."""
    return "\n".join(_keep_colours(line) for line in text.split("\n"))


def _keep_colours(line: str) -> str:
    colours = _COLOUR.findall(line)
    first, *pieces = [clean_lines(piece) for piece in _COLOUR.split(line)]
    kept = first + "".join(c + p for c, p in zip(colours, pieces, strict=True))
    return kept + ("\x1b[0m" if colours else "")


def clean(text: object) -> str:
    """One line, harmless: nothing that a server says makes a second line or moves the cursor."""
    return clean_lines(str(text)).replace("\n", " ").replace("\t", " ")


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Aligned columns; words with a meaning are coloured on a terminal."""
    cells = [[("-" if cell in (None, "") else clean(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    click.secho(_line(headers, widths), bold=True)
    for row in cells:
        click.echo(_line(row, widths, coloured=True))


def _line(cells: Sequence[str], widths: Sequence[int], *, coloured: bool = False) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    padded[-1] = padded[-1].rstrip()
    if coloured:
        padded = [
            click.style(text, fg=COLOURS[cell]) if cell in COLOURS else text
            for text, cell in zip(padded, cells, strict=True)
        ]
    return "  ".join(padded)


def structured(value: Any, output: str) -> bool:
    """Print the value as JSON or YAML, if that was asked for; False: as a table, by the caller."""
    if output == "table":
        return False
    click.echo(as_json(value) if output == "json" else as_yaml(value), nl=False)
    return True


def one_of_many(value: Any, output: str) -> bool:
    """As `structured`, for values that come one after the other: lines of JSON, documents of YAML."""
    if output == "table":
        return False
    click.echo(
        as_json(value, indent=None) if output == "json" else "---\n" + as_yaml(value), nl=False
    )
    return True


def as_json(value: Any, indent: int | None = 2) -> str:
    """What is not to be printed raw is escaped, so that the value stays the same."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _CONTROLS.sub(lambda found: _escaped(found[0]), text) + "\n"


def as_yaml(value: Any) -> str:
    import yaml  # slow to import, and seldom asked for

    def dump(*, is_ascii: bool) -> str:
        text: str = yaml.safe_dump(
            value, sort_keys=False, allow_unicode=not is_ascii, default_flow_style=False
        )
        return text

    text = dump(is_ascii=False)
    return dump(is_ascii=True) if _CONTROLS.search(text) else text


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1] if character != "\x7f" else "\\u007f"


def say(text: str, *, err: bool = False, **style: Any) -> None:
    """One line that may have words of a server in it."""
    click.secho(clean(text), err=err, **style)


def error(message: str) -> None:
    click.secho(f"error: {clean(message)}", fg="red", err=True)


def path(of: object) -> str:
    """A path for people: with `~` for their home."""
    text, home = str(of), os.path.expanduser("~").rstrip("/")
    return f"~{text[len(home) :]}" if home and text.startswith(f"{home}/") else text


def size(count: int) -> str:
    """Bytes for people: 1.5 GiB."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
