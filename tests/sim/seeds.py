"""Which seeds a test of several takes."""


def share(seeds: list[int], part: float) -> list[int]:
    """So many of them, or more than there are: consecutive ones from the first; one stays one."""
    if len(seeds) == 1:
        return seeds
    return list(range(seeds[0], seeds[0] + round(len(seeds) * part)))
