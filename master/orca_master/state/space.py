"""How a full disk is told apart from a broken one."""

import errno


def is_full(error: OSError) -> bool:
    """The disk, or the quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
