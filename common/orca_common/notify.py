"""Telling the service manager (systemd) how we are: READY, STOPPING. Without one, nothing happens."""

import os
import socket


def notify(*lines: str) -> None:
    """Send lines such as `READY=1`, as sd_notify(3) does."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client:
        try:
            client.connect(address)
            client.sendall("\n".join(lines).encode())
        except OSError:
            return  # nobody listens any more; the daemon goes on
