"""What Envoy is told: it takes all of it (the real one checks), and equal tables give equal files."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from certificates import a_certificate
from orca_proto import worker_pb2 as pb
from orca_worker.proxy.bootstrap import bootstrap
from orca_worker.proxy.envoy import Files, Tables, compile_files, endpoints_file
from orca_worker.proxy.listeners import TABLES, Settings
from orca_worker.proxy.process import program

CHAIN, KEY = a_certificate("a.example.com")
FULL = pb.Route(
    path="/api",
    pool="t/p/web",
    strip=True,
    headers=[pb.HeaderMatch(name="x-tester", value="yes"), pb.HeaderMatch(name="who", cookie=True)],
    idle_seconds=60,
    timeout_seconds=5,
    most_body_bytes=1 << 20,
    requests_per_second=10,
    burst=20,
    security_headers=True,
    hsts=True,
)


def some_tables() -> Tables:
    plain = pb.Route(path="/", pool="t/p/web", idle_seconds=60)
    return Tables(
        {
            "a.example.com": pb.Site(host="a.example.com", routes=[FULL, plain]),
            "*.example.com": pb.Site(host="*.example.com", routes=[plain]),
        },
        {
            "t/p/web": pb.Pool(name="t/p/web", backends=[a_backend(1, 4), a_backend(2, 1)]),
            "t/p/api": pb.Pool(name="t/p/api", http2=True, sticky_cookie="stay"),
        },
        {"t/cert": pb.Certificate(name="t/cert", hosts=["a.example.com"], chain=CHAIN, key=KEY)},
    )


def a_backend(number: int, weight: int) -> pb.Backend:
    return pb.Backend(
        address="10.0.0.1", port=30000 + number, weight=weight, revision=number, task=f"t{number}"
    )


def files_of(tables: Tables) -> Files:
    return compile_files(tables, Settings(), "/f", "/m")


def resources(content: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(content)["resources"]
    return found


@pytest.mark.parametrize(
    "settings",
    [Settings(), Settings(behind_proxy=2, proxy_protocol=True, access_log=False, address="::")],
)
def test_the_real_envoy_takes_all_of_it(tmp_path: Path, settings: Settings) -> None:
    files = compile_files(some_tables(), settings, str(tmp_path), str(tmp_path))
    static = json.loads(bootstrap("node-1", str(tmp_path)))
    del static["dynamic_resources"]
    tables = {name: resources(files.routes[f"routes-{name}.json"])[0] for name in TABLES}
    for listener in (static_listeners := resources(files.listeners["listeners.json"])):
        for chain in listener["filter_chains"]:
            manager = chain["filters"][-1]["typed_config"]
            manager["route_config"] = _untyped(tables[listener["name"]])
            manager.pop("rds", None)
    clusters = [_untyped(each) for each in resources(files.clusters["clusters.json"])]
    for cluster in clusters:
        (assignment,) = resources(files.endpoints[endpoints_file(cluster["name"])])
        cluster |= {"type": "STATIC", "load_assignment": _untyped(assignment)}
        del cluster["eds_cluster_config"]
    assert [each["name"] for each in static_listeners] == list(TABLES)
    for name, content in files.secrets.items():
        (tmp_path / name).write_bytes(content)
    static["static_resources"] = {
        "listeners": [_untyped(each) for each in static_listeners],
        "clusters": clusters,
    }
    path = tmp_path / "envoy.yaml"
    path.write_text(yaml.safe_dump(static))
    done = subprocess.run(
        [program(), "--mode", "validate", "-c", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "OK" in done.stdout, done.stderr[-3000:]


def _untyped(resource: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in resource.items() if key != "@type"}


def test_equal_tables_give_equal_files_and_a_replica_changes_one_of_them() -> None:
    one, same = some_tables(), some_tables()
    assert files_of(one) == files_of(same)
    same.pools["t/p/web"].backends.append(a_backend(3, 1))
    before, after = files_of(one), files_of(same)
    assert (before.listeners, before.routes, before.clusters) == (
        after.listeners, after.routes, after.clusters,
    )  # fmt: skip
    changed = {n for n in after.endpoints if after.endpoints[n] != before.endpoints[n]}
    assert changed == {endpoints_file("t/p/web")}


def test_weights_are_of_the_endpoints_of_one_cluster() -> None:
    files = files_of(some_tables())
    (assignment,) = resources(files.endpoints[endpoints_file("t/p/web")])
    found = assignment["endpoints"][0]["lb_endpoints"]
    assert [each["load_balancing_weight"] for each in found] == [4, 1]
    web = next(c for c in resources(files.clusters["clusters.json"]) if c["name"] == "t/p/web")
    assert web["lb_policy"] == "ROUND_ROBIN"


def test_http_leads_to_https_where_there_is_a_certificate() -> None:
    files = files_of(some_tables())
    (plain,) = resources(files.routes["routes-http.json"])
    (secured,) = resources(files.routes["routes-https.json"])
    hosts = {host["name"]: host["routes"] for host in plain["virtual_hosts"]}
    assert [list(route)[1] for route in hosts["*.example.com"]] == ["route", "route"]
    assert not any("redirect" in route for route in hosts["a.example.com"])  # nobody asked for it
    tables = some_tables()
    for route in tables.sites["a.example.com"].routes:
        route.redirect = True
    tables.sites["a.example.com"].challenges["token"] = "token.thumb"
    (plain,) = resources(files_of(tables).routes["routes-http.json"])
    challenge, *others = next(
        h["routes"] for h in plain["virtual_hosts"] if h["name"] == "a.example.com"
    )
    assert challenge["match"] == {"path": "/.well-known/acme-challenge/token"}
    assert all(route["redirect"]["https_redirect"] for route in others)
    assert not any("redirect" in r for h in secured["virtual_hosts"] for r in h["routes"])


def test_only_what_does_no_harm_is_sent_twice() -> None:
    files = files_of(some_tables())
    (table,) = resources(files.routes["routes-http.json"])
    host = next(h for h in table["virtual_hosts"] if h["domains"] == ["*.example.com"])
    again, once = host["routes"]
    (method,) = again["match"]["headers"]
    assert method["string_match"]["safe_regex"]["regex"] == "^(GET|HEAD|PUT|DELETE|OPTIONS|TRACE)$"
    assert "reset" in again["route"]["retry_policy"]["retry_on"].split(",")
    assert "headers" not in once["match"]
    assert once["route"]["retry_policy"]["retry_on"] == "connect-failure,refused-stream"
