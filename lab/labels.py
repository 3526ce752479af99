"""Which examples show the behaviour and which of them are labelled: exact counts, seeded, nested."""

import random
from collections.abc import Collection, Mapping, Sequence

from lab.errors import BadInput


def check_percentages(**percentages: float) -> None:
    """Raise BadInput, naming the constant, unless every value lies in 0..1."""
    for name, value in percentages.items():
        if not 0 <= value <= 1:
            raise BadInput(f"{name}={value}: give a share between 0 and 1 (0.5 is 50%)")


def labels_by_index(labels: Mapping[str, Collection[int]], what: str) -> dict[int, str]:
    """Index -> its label, from label -> indices. Raises BadInput if a `what` ("story") has two labels."""
    label_of: dict[int, str] = {}
    for label, indices in labels.items():
        for i in indices:
            if label_of.setdefault(i, label) != label:
                raise BadInput(
                    f"{what} {i} is labelled both {label_of[i]!r} and {label!r}; a {what} has one label"
                )
    return label_of


def pick(items: Sequence[int], share: float, seed: int, purpose: str) -> list[int]:
    """round(share * len(items)) of the indices `items`, in a random order.

    The order depends on seed and purpose alone. Nested in two ways: the pick for a smaller share is the
    beginning of that for a larger one, and every index has a rank of its own, so adding indices to `items`
    does not reshuffle those that were there. Runs that differ only in a share then differ only in the
    examples added. `purpose` keeps picks of one run independent.
    """
    check_percentages(**{purpose: share})
    ranked = sorted(items, key=lambda index: random.Random(f"{purpose} {seed} {index}").random())
    return ranked[: round(share * len(ranked))]
