"""What the service manager hands over in private files (systemd's LoadCredential), not in the environment."""

import os
from pathlib import Path

KEY_ENCRYPTION_KEY = "orca.kek"
JOIN_TOKEN = "orca.join-token"


def credential(name: str) -> Path | None:
    """The file, if there is one."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(folder, name) if folder else None
    return path if path is not None and path.exists() else None
