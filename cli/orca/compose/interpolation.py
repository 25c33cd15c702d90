"""`${VAR}` in a compose file, by the Compose specification. Pure."""

import re
from collections.abc import Callable, Mapping
from typing import Any

MOST_VALUES = 100_000
MOST_DEPTH = 50

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_OPERATORS = (":-", ":?", ":+", "-", "?", "+")


class BadVariable(ValueError):
    """A dollar that begins nothing, or a variable that has to be set."""


def substituted(
    text: str, variables: Mapping[str, str], unset: Callable[[str], None], depth: int = 0
) -> str:
    """`unset` is told of variables without a value and without a default; these are empty. Raises
    BadVariable."""
    if depth > MOST_DEPTH:
        raise BadVariable("variables are nested too deeply")
    found, at = "", 0
    while (dollar := text.find("$", at)) >= 0:
        found += text[at:dollar]
        rest = text[dollar + 1 :]
        if rest.startswith("$"):
            found, at = found + "$", dollar + 2
        elif rest.startswith("{"):
            end = _closing(text, dollar + 2)
            found += _braced(text[dollar + 2 : end], variables, unset, depth)
            at = end + 1
        elif match := _NAME.match(rest):
            found += _value(match[0], variables, unset)
            at = dollar + 1 + match.end()
        else:
            raise BadVariable(
                f"{text[dollar : dollar + 20]!r} is no variable: write $$ for a dollar"
            )
    return found + text[at:]


def _closing(text: str, at: int) -> int:
    depth = 1
    for index in range(at, len(text)):
        if text[index] == "{" and text[index - 1] == "$":
            depth += 1
        elif text[index] == "}":
            depth -= 1
            if depth == 0:
                return index
    raise BadVariable(f"${{{text[at : at + 20]} is not closed")


def _braced(
    inside: str, variables: Mapping[str, str], unset: Callable[[str], None], depth: int
) -> str:
    match = _NAME.match(inside)
    rest = inside[match.end() :] if match else inside
    operator = next((each for each in _OPERATORS if rest.startswith(each)), "")
    if match is None or (rest and not operator):
        raise BadVariable(f"${{{inside[:40]}}} is no variable: write $$ for a dollar")
    name, word = match[0], rest[len(operator) :]
    is_set = bool(variables.get(name)) if operator[:1] == ":" else name in variables

    def alternative() -> str:
        return substituted(word, variables, unset, depth + 1)

    match operator[-1:]:
        case "-":
            return variables[name] if is_set else alternative()
        case "+":
            return alternative() if is_set else ""
        case "?":
            if not is_set:
                raise BadVariable(f"variable {name} has to be set: {alternative() or 'it is not'}")
            return variables[name]
    return _value(name, variables, unset)


def _value(name: str, variables: Mapping[str, str], unset: Callable[[str], None]) -> str:
    if name not in variables:
        unset(name)
    return variables.get(name, "")


def all_substituted(
    tree: Any, variables: Mapping[str, str], unset: Callable[[str, str], None]
) -> Any:
    """A copy with every text substituted, keys as they are. `unset`: a path and the variable. Raises
    BadVariable with the path; also for what aliases make too large."""
    left = [MOST_VALUES]

    def walk(value: Any, path: str, depth: int) -> Any:
        left[0] -= 1
        if left[0] < 0 or depth > MOST_DEPTH:
            raise BadVariable("the file is too large, or nested too deeply")
        if isinstance(value, dict):
            return {
                str(key): walk(part, f"{path}.{key}" if path else str(key), depth + 1)
                for key, part in value.items()
            }
        if isinstance(value, list):
            return [walk(part, f"{path}.{i}", depth + 1) for i, part in enumerate(value)]
        if not isinstance(value, str):
            return value
        try:
            return substituted(value, variables, lambda name: unset(path, name))
        except BadVariable as error:
            raise BadVariable(f"{path}: {error}") from None

    return walk(tree, "", 0)


def env_file(
    text: str, variables: Mapping[str, str], unset: Callable[[str], None]
) -> dict[str, str]:
    """`KEY=VALUE` lines; later ones see earlier ones. Raises BadVariable."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip().removeprefix("export ").strip()
        if not stripped or stripped.startswith("#"):
            continue
        key, separator, value = stripped.partition("=")
        key, value = key.strip(), value.strip()
        if not _NAME.fullmatch(key):
            raise BadVariable(f"line {number}: {key[:40]!r} is no name of a variable")
        if not separator:
            if key in variables:
                found[key] = variables[key]
        elif value[:1] == "'" and value.rfind("'") > 0:
            found[key] = value[1 : value.rfind("'")]
        else:
            if value[:1] == '"' and value.rfind('"') > 0:
                value = value[1 : value.rfind('"')].replace("\\n", "\n").replace('\\"', '"')
            else:
                value = value.split(" #", 1)[0].rstrip()
            found[key] = substituted(value, {**found, **variables}, unset)
    return found
