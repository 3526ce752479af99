"""Which examples show the behaviour and which of them are labelled: exact counts, seeded, nested."""

import random
from collections.abc import Sequence
from typing import TypeVar

from routing.errors import BadInput

T = TypeVar("T")


def check_percentages(**percentages: float) -> None:
    """Raise BadInput, naming the constant, unless every value lies in 0..1."""
    for name, value in percentages.items():
        if not 0 <= value <= 1:
            raise BadInput(f"{name}={value}: give a share between 0 and 1 (0.5 is 50%)")


def pick(items: Sequence[T], share: float, seed: int, purpose: str) -> list[T]:
    """round(share * len(items)) of `items`, in a random order that depends on seed and purpose alone.

    Nested: with the same items, seed and purpose, the pick for a smaller share is the beginning of that for a larger one, so
    runs that differ only in a share differ only in the examples added. `purpose` keeps picks of one run independent.
    """
    check_percentages(**{purpose: share})
    shuffled = list(items)
    random.Random(f"{purpose} {seed}").shuffle(shuffled)
    return shuffled[: round(share * len(shuffled))]
