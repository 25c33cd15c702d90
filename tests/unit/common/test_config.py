"""Configuration: precedence, and every mistake at once."""

from pathlib import Path

import pytest

from orca_common.config import BadConfig, load
from orca_master.app.config import MasterConfig
from orca_worker.config import WorkerConfig


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "master.toml"
    file.write_text('name = "from-file"\ncluster_name = "from-file"\nbind = "1.1.1.1"\n')
    settings = load(
        MasterConfig,
        file=file,
        environ={"ORCA_MASTER_CLUSTER_NAME": "from-env", "ORCA_MASTER_BIND": "2.2.2.2"},
        prefix="ORCA_MASTER_",
        flags={"bind": "3.3.3.3", "name": None},
    )
    assert (settings.name, settings.cluster_name, settings.bind) == (
        "from-file",
        "from-env",
        "3.3.3.3",
    )


def test_every_mistake_is_told_at_once() -> None:
    environ = {"ORCA_MASTER_API_PORT": "no", "ORCA_MASTER_BOGUS": "1"}
    with pytest.raises(BadConfig) as caught:
        load(
            MasterConfig, file=None, environ=environ, prefix="ORCA_MASTER_", flags={"grpc_port": 0}
        )
    said = str(caught.value).splitlines()
    assert len(said) == 3
    assert any(
        line.startswith("bogus: is not a setting (known: name, cluster_name") for line in said
    )


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="No such file"):
        load(MasterConfig, file=tmp_path / "x", environ={}, prefix="ORCA_MASTER_", flags={})


def test_lists_are_written_with_commas_in_the_environment() -> None:
    settings = load(
        WorkerConfig,
        file=None,
        environ={"ORCA_WORKER_MASTERS": "http://a:6880, http://b:6880"},
        prefix="ORCA_WORKER_",
        flags={},
    )
    assert settings.masters == ["http://a:6880", "http://b:6880"]
