"""Which of an engine's digests a name stands for."""

import pytest

from orca_worker.runtime.docker.names import known_digest

A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


@pytest.mark.parametrize(
    ("listed", "image", "expected"),
    [
        ([], "app:1", ""),
        ([f"nginx@{A}"], "nginx", A),
        ([f"nginx@{A}"], "nginx:1.27", A),
        ([f"nginx@{A}"], "docker.io/library/nginx:1.27", A),
        ([f"docker.io/library/nginx@{A}"], "nginx:1.27", A),
        ([f"acme/web@{A}"], "index.docker.io/acme/web", A),
        ([f"127.0.0.1:5000/web@{A}"], "127.0.0.1:5000/web:main", A),
        ([f"127.0.0.1:5000/web@{A}"], "127.0.0.1:5001/web:main", ""),
        ([f"other/web@{A}", f"acme/web@{B}"], "acme/web:main", B),
        ([f"acme/web@{A}", f"acme/web@{B}"], "acme/web:main", A),
        ([f"acme/web@{A}", f"acme/web@{B}"], f"acme/web:main@{B}", B),
        ([f"localhost/web@{A}"], "web:1", ""),
        ([f"localhost/web@{A}"], "localhost/web:1", ""),
        (["<none>@<none>"], "web:1", ""),
        (["web@sha256:short"], "web:1", ""),
    ],
)
def test_the_digest_is_that_of_the_repository_which_is_named(
    listed: list[str], image: str, expected: str
) -> None:
    if "localhost/" in image:
        assert known_digest(listed, image) in ("", A)
    else:
        assert known_digest(listed, image) == expected
