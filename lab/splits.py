"""Training, validation and test data that share no group: no plot, no solution template."""

from collections.abc import Hashable, Sequence
from typing import Any

from lab.errors import BadInput

HELD_OUT = ("validation", "test")


def held_out(splits: Any, name: str) -> list[Any]:
    """The items of the split `name` of a named tuple. Raises BadInput unless that is one of HELD_OUT."""
    if name not in HELD_OUT:
        raise BadInput(
            f'there is no held-out split {name!r}: give "validation" (what is chosen is chosen there) '
            'or "test" (what is published)'
        )
    return getattr(splits, name)


def split_groups(
    groups: Sequence[Hashable], validation: int, test: int
) -> tuple[list[int], list[int], list[int]]:
    """The indices of training, validation and test items, in order; `groups` has the group of each item.

    Whole groups from the end go to test until it has `test` items (or a few more), then to validation. A
    group stands where its first item does. Every split gets at least one. Raises ValueError for fewer than
    three groups.
    """
    sizes: dict[Hashable, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    if len(sizes) < 3:
        raise ValueError(f"{len(sizes)} groups cannot be trained on, validated and tested on; it takes three")
    left = list(sizes)
    place: dict[Hashable, int] = {}
    # each of the splits still to be filled needs a group
    for split, wanted, reserved in ((2, test, 2), (1, validation, 1)):
        taken = 0
        while len(left) > reserved and taken < wanted:
            group = left.pop()
            place[group] = split
            taken += sizes[group]
    train, validated, tested = (
        [i for i, group in enumerate(groups) if place.get(group, 0) == split] for split in range(3)
    )
    return train, validated, tested
