"""The documents cannot lie: links lead somewhere, examples load, every route and setting is told."""

import ast
import graphlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from unittest.mock import Mock

import grimp
import pytest

from orca.main import COMMANDS
from orca.manifests import read_services
from orca_master.app.parts import Parts
from orca_master.http.meters import HttpMeters
from orca_master.http.route import Open
from orca_master.services.payload import DeployIn, ServiceIn
from orca_master.services.status import STATUSES

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
EXAMPLES = sorted(ROOT.glob("examples/*.*"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", document.read_text())
    assert [t for t in targets if not (document.parent / t).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(document: Path) -> None:
    named = re.findall(
        r"`((?:docs|examples|systemd|tests|bench|tools)/[\w./-]+)`", document.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid(example: Path) -> None:
    services = read_services(str(example))
    DeployIn.model_validate_json(json.dumps({"services": services}))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


def test_the_api_page_tells_every_route_with_its_permission() -> None:
    page = (ROOT / "docs/api.md").read_text()
    routes = Parts.routes(Mock(meters=HttpMeters()))
    for route in routes:
        words = {Open.PUBLIC: "*open*", Open.SIGNED: "*signed*", Open.MASTERS: "*masters*"}
        permission = words.get(route.permission) or f"`{route.permission}`"  # type: ignore[call-overload]
        assert f"| `{route.method} {route.path}` | {permission} |" in page, route.path
    assert len(re.findall(r"^\| `[A-Z]+ /", page, re.MULTILINE)) == len(routes)


def test_the_api_page_tells_every_field_and_status_word() -> None:
    page = (ROOT / "docs/api.md").read_text()
    assert [name for name in ServiceIn.model_fields if f"`{name}`" not in page] == []
    assert [word for word in STATUSES if f"| `{word}` |" not in page] == []


def test_the_readme_shows_commands_that_exist() -> None:
    shown = set(re.findall(r"^\$ orca (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert shown
    assert shown <= COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_that_says_what_the_list_says(name: str) -> None:
    command = [sys.executable, "-c", "from orca.main import main; main()", name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"Usage: orca {name}")


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = makefile.split(".PHONY:")[1].splitlines()[0].split()
    assert [
        name for name in phony if not re.search(rf"^{name}:.*## ", makefile, re.MULTILINE)
    ] == []


def test_the_version_of_pysyncobj_is_exact() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "pysyncobj==0.3.17" in project["dependencies"]


def test_no_module_or_function_is_too_long() -> None:
    long = []
    for root in ("proto", "common", "master", "worker", "cli", "tests", "bench"):
        for path in (ROOT / root).rglob("*.py"):
            if "_pb2" in path.name:
                continue
            text = path.read_text()
            if len(text.splitlines()) > 500:
                long.append(str(path.relative_to(ROOT)))
            long += [
                f"{path.relative_to(ROOT)}:{node.name}"
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                and (node.end_lineno or 0) - node.lineno > 70
            ]
    assert long == []


def test_no_imports_go_in_a_circle() -> None:
    roots = ("orca_proto", "orca_common", "orca_master", "orca_worker", "orca")
    graph = grimp.build_graph(*roots, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    list(graphlib.TopologicalSorter(imports).static_order())  # raises CycleError, which names it


def test_the_committed_stubs_are_what_the_protocol_compiles_to(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    command = [
        sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "proto"),
        f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}",
        str(ROOT / "proto/orca_proto/worker.proto"),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    for name in ("worker_pb2.py", "worker_pb2_grpc.py"):
        made = (tmp_path / "orca_proto" / name).read_text()
        assert made == (ROOT / "proto/orca_proto" / name).read_text(), f"run `make proto`: {name}"
