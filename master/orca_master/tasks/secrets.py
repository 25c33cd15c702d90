"""The values of secrets, put into what goes to a worker. They are in no row, and nowhere else.

Called for the specs of a node's own tasks, on its stream with mutual TLS.
"""

from orca_master.errors import NotReady
from orca_master.identity.secrets import templates
from orca_master.identity.secrets.model import SecretUse
from orca_master.identity.secrets.operations import version_of
from orca_master.identity.secrets.vault import Unreadable, Vault
from orca_master.identity.wrapping.keyring import KeyAway
from orca_master.state.table import View
from orca_master.tasks.model import TaskSpec
from orca_proto import worker_pb2 as pb

MOST_EXPANDED_BYTES = 256 << 10


class _NoValue(Exception):
    """The text says which secret has no value, and why."""


def fill_in(view: View, vault: Vault, spec: TaskSpec, message: pb.TaskSpec) -> None:
    """Give `message`, made from `spec`, its values; or say in it why it cannot be started.

    Raises KeyAway."""
    try:
        _fill_in(view, vault, spec, message)
    except (_NoValue, templates.BadReference) as error:
        _take_out(spec, message)
        message.lacks = str(error)


def leave_out(spec: TaskSpec, message: pb.TaskSpec) -> None:
    """Say in `message`, made from `spec`, that it has no values, if it should have any."""
    if _has_values(spec):
        _take_out(spec, message)
        message.lacks_values = True


def oversize(view: View, spec: TaskSpec) -> str:
    """Why the spec with its values is too large; empty: it is not. Raises BadReference."""
    rows = {use.key: version_of(view, use) for use in spec.secrets}
    sizes = {key: row.size for key, row in rows.items() if row is not None}
    total = 0
    for text in [*spec.env.values(), *(file.content for file in spec.files)]:
        if templates.has_any(text):
            for literal, key in templates.parts(text):
                total += len(literal) + (sizes.get(key, 0) if key is not None else 0)
    total += sum(sizes.get(file.key, 0) for file in spec.files if file.key)
    if total <= MOST_EXPANDED_BYTES:
        return ""
    return f"env and files with their secrets are larger than {MOST_EXPANDED_BYTES >> 10} KiB"


def _has_values(spec: TaskSpec) -> bool:
    return bool(spec.files) or any(map(templates.has_any, spec.env.values()))


def _take_out(spec: TaskSpec, message: pb.TaskSpec) -> None:
    for name, template in spec.env.items():
        if templates.has_any(template):
            message.env.pop(name, None)
    message.secret_env.clear()
    del message.secret_files[:]


def _fill_in(view: View, vault: Vault, spec: TaskSpec, message: pb.TaskSpec) -> None:
    if not _has_values(spec):
        return
    if too_large := oversize(view, spec):
        raise _NoValue(too_large)
    uses = {use.key: use for use in spec.secrets}
    values: dict[str, bytes] = {}

    def value(key: str) -> bytes:
        if key not in values:
            values[key] = _value(view, vault, uses.get(key), key)
        return values[key]

    def text(key: str) -> str:
        try:
            return value(key).decode()
        except UnicodeDecodeError as error:
            raise _NoValue(f"secret {key} is no text: only a file can hold it") from error

    for name, template in spec.env.items():
        if not templates.has_any(template):
            continue
        whole = templates.expanded(template, text)
        if templates.keys([template]):
            del message.env[name]
            message.secret_env[name] = whole
        else:
            message.env[name] = whole
    for file in spec.files:
        content = value(file.key) if file.key else templates.expanded(file.content, text).encode()
        message.secret_files.append(pb.SecretFile(path=file.path, content=content, mode=file.mode))


def _value(view: View, vault: Vault, use: SecretUse | None, key: str) -> bytes:
    if use is None:
        raise _NoValue(f"secret {key} was not known when this revision was made: deploy it again")
    row = version_of(view, use)
    if row is None:
        raise _NoValue(
            f"version {use.version} of secret {use.name} was removed:"
            f" set it again with `orca secrets set {key}`"
        )
    try:
        return vault.open(view, row)
    except KeyAway:
        raise
    except (Unreadable, NotReady) as error:
        raise _NoValue(f"secret {use.name} cannot be opened: {error}") from error
