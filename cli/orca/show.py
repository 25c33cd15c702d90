"""How the command line prints: tables for people, JSON for machines, server text made harmless."""

import json
import re
from collections.abc import Sequence
from typing import Any

import click

_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)

COLOURS = {
    "running": "green",
    "ready": "green",
    "updating": "cyan",
    "pending": "yellow",
    "degraded": "yellow",
    "failed": "red",
    "down": "red",
}


def clean(text: object) -> str:
    """Without terminal escapes and control characters: nothing a server says moves the cursor."""
    return _CONTROL.sub("", str(text))


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


def as_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def error(message: str) -> None:
    click.secho(f"error: {clean(message)}", fg="red", err=True)


def size(count: int) -> str:
    """Bytes for people: 1.5 GiB."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
