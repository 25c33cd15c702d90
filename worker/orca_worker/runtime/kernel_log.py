"""What the kernel says of a control group that it killed in: engines miss it now and then.

Only root may read it, and the kernel may have said it so often that it stopped: no answer is no.
"""

import contextlib
import os

_LINE_BYTES = 8192
_MOST_LINES = 20_000


def killed_for_memory(group: str) -> bool:
    """Whether a group with this in its name ran out of its memory, as far as is remembered. Blocks."""
    with contextlib.suppress(OSError):
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return _says(fd, group.encode())
        finally:
            os.close(fd)
    return False


def _says(fd: int, group: bytes) -> bool:
    for _ in range(_MOST_LINES):
        try:
            line = os.read(fd, _LINE_BYTES)
        except BlockingIOError:
            return False
        except BrokenPipeError:  # it was overwritten meanwhile: the next read goes on after that
            continue
        if b"oom_memcg=" in line and group in line.partition(b"oom_memcg=")[2].partition(b",")[0]:
            return True
    return False
