"""Settings from a file, the environment and flags."""

from pathlib import Path

import pytest
from msgspec.structs import asdict

from orca_common.config import BadConfig, load
from orca_master.app.config import MasterConfig
from orca_worker.config import WorkerConfig


def worker(
    file: Path | None = None, environ: dict[str, str] | None = None, **flags: object
) -> WorkerConfig:
    return load(WorkerConfig, file=file, environ=environ or {}, prefix="ORCA_WORKER_", flags=flags)


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('name = "of-file"\naddress = "of-file"\ndata_dir = "of-file"\n')
    environ = {"ORCA_WORKER_NAME": "of-env", "ORCA_WORKER_ADDRESS": "of-env", "OTHER": "1"}
    settings = worker(file, environ, name="of-flag", address=None)
    assert (settings.name, settings.address) == ("of-flag", "of-env")
    assert settings.data_dir == "of-file"


def test_what_is_not_given_has_its_default() -> None:
    settings = worker()
    assert settings.masters == ["http://127.0.0.1:6880"]
    assert settings.labels == {}
    assert settings.name


def test_the_environments_text_becomes_the_settings_type() -> None:
    environ = {
        "ORCA_WORKER_MASTERS": "http://a:1, http://b:2",
        "ORCA_WORKER_LOG_JSON": "false",
    }
    settings = worker(None, environ)
    assert settings.masters == ["http://a:1", "http://b:2"]
    assert settings.log_json is False
    master = load(
        MasterConfig,
        file=None,
        environ={"ORCA_MASTER_API_PORT": "7000", "ORCA_MASTER_HEARTBEAT_SECONDS": "1.5"},
        prefix="ORCA_MASTER_",
        flags={},
    )
    assert (master.api_port, master.heartbeat_seconds) == (7000, 1.5)


def test_tables_of_the_file_are_read(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('masters = ["http://a:1"]\n[labels]\nzone = "a"\n')
    assert asdict(worker(file))["labels"] == {"zone": "a"}


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('colour = "red"\nruntime = "magic"\nname = 5\n')
    with pytest.raises(BadConfig) as raised:
        worker(file)
    lines = str(raised.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["colour", "runtime", "name"]
    assert "known: name, data_dir" in lines[0]


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_outside_its_range_is_refused(port: str) -> None:
    with pytest.raises(BadConfig, match="api_port"):
        load(
            MasterConfig,
            file=None,
            environ={"ORCA_MASTER_API_PORT": port},
            prefix="ORCA_MASTER_",
            flags={},
        )


def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"missing\.toml"):
        worker(tmp_path / "missing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(BadConfig, match=r"broken\.toml"):
        worker(broken)


def test_a_node_may_be_silent_for_two_beats_at_least() -> None:
    environ = {"ORCA_MASTER_HEARTBEAT_SECONDS": "2", "ORCA_MASTER_NODE_DOWN_AFTER_SECONDS": "3.5"}
    with pytest.raises(BadConfig, match=r"node_down_after_seconds: 3\.5 is less than twice"):
        load(MasterConfig, file=None, environ=environ, prefix="ORCA_MASTER_", flags={})
