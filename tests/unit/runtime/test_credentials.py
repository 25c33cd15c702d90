"""Accounts of registries: found, told to the engine, and told to nobody else."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from orca_common.config import BadConfig, load
from orca_worker.config import WorkerConfig
from orca_worker.runtime.docker.credentials import Credentials, Login
from orca_worker.runtime.port import RuntimeRefusal

SECRET = "correct-horse"


def told(header: str | None) -> dict[str, Any]:
    assert header is not None
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(header))
    return found


def test_a_registrys_own_account_is_used(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET + "\n")
    logins = {
        "r.io:5000": Login(username="me", password=SECRET),
        "docker.io": Login(username="you", password_file=str(file)),
    }
    credentials = Credentials(logins)
    assert told(credentials.who("r.io:5000").header)["username"] == "me"
    account = told(credentials.who("docker.io").header)
    assert (account["username"], account["password"]) == ("you", SECRET)
    file.write_text("another")
    assert told(credentials.who("docker.io").header)["password"] == "another"


def test_dockers_own_file_is_read_again_each_time(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    pair = base64.b64encode(f"me:{SECRET}".encode()).decode()
    file.write_text(json.dumps({"auths": {"r.io": {"auth": pair}}}))
    credentials = Credentials(config_path=str(file))
    assert told(credentials.who("r.io").header)["password"] == SECRET
    assert credentials.who("other.io").header is None
    file.write_text(json.dumps({"auths": {}}))
    assert credentials.who("r.io").header is None


@pytest.mark.parametrize("content", [None, f'{{"auths": {{"r.io": "{SECRET}"}}}}', f"[{SECRET}"])
def test_a_file_that_is_none_is_told_without_its_content(
    tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "config.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(RuntimeRefusal) as refused:
        Credentials(config_path=str(file)).who("r.io")
    assert "credentials for registry r.io cannot be read" in refused.value.reason
    assert SECRET not in refused.value.reason
    assert refused.value.__cause__ is None


def test_a_password_is_not_shown() -> None:
    assert SECRET not in repr(Login(username="me", password=SECRET))


def read(tmp_path: Path, text: str) -> WorkerConfig:
    file = tmp_path / "worker.toml"
    file.write_text(text)
    return load(WorkerConfig, file=file, environ={}, prefix="ORCA_WORKER_", flags={})


def test_accounts_stand_in_the_workers_configuration(tmp_path: Path) -> None:
    settings = read(tmp_path, f'[registries."r.io:5000"]\nusername = "me"\npassword = "{SECRET}"\n')
    assert settings.registries["r.io:5000"].username == "me"
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    "text",
    [
        f'[registries."r.io"]\nusername = "me"\npassword = "{SECRET}"\npassword_file = "/x"\n',
        '[registries."r.io"]\nusername = "me"\n',
        f'[registries."r.io"]\nuser = "{SECRET}"\n',
        f'registries = "{SECRET}"\n',
        "pull_quiet_seconds = 0\n",
        "pull_most_bytes = -1\n",
    ],
)
def test_mistakes_in_them_are_told_without_secrets(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadConfig) as refused:
        read(tmp_path, text)
    assert SECRET not in str(refused.value)
