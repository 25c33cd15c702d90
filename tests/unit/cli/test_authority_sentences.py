"""How far a rotation of the authority is, in words."""

from typing import Any

from orca.commands.masters import authority_sentences


def an_authority(**fields: Any) -> dict[str, Any]:
    found = {"fingerprint": "0123456789abcdef" * 4, "until": 86400.0 * 366, "left_behind": []}
    return found | {"rotation": None} | fields


def a_rotation(step: str, missing: int) -> dict[str, Any]:
    names = [
        {"role": "worker", "name": f"w{number}", "reason": "is not connected"}
        for number in range(missing)
    ]
    counts = {"member_count": 30, "missing_count": missing, "missing": names}
    return {"step": step, "new": "f" * 64, **counts}


def test_without_a_rotation_it_says_which_one_signs_and_who_was_left_behind() -> None:
    assert authority_sentences(an_authority(left_behind=["w1", "w2"])) == [
        "authority 0123456789abcdef signs, until 1971-01-02",
        "left behind when the one before it was dropped: w1, w2",
    ]


def test_a_step_names_whom_it_waits_for() -> None:
    said = authority_sentences(an_authority(rotation=a_rotation("trusting", 2)))
    assert said[1:] == [
        "step 1 of 2: 28 of 30 trust both authorities (the new one is ffffffffffffffff)",
        "  worker w0: is not connected",
        "  worker w1: is not connected",
    ]


def test_of_many_only_some_are_named() -> None:
    said = authority_sentences(an_authority(rotation=a_rotation("renewing", 25)))
    assert said[1].startswith("step 2 of 2: 5 of 30 have a certificate of the new one")
    assert (len(said), said[-1]) == (23, "  and 5 more")
