"""Which examples show the behaviour and which of them are labelled: exact counts, seeded, nested."""

import math
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


def noisy_probabilities(
    items: Sequence[int], positive: Collection[int], auc: float, seed: int
) -> dict[int, float]:
    """Item -> how likely a classifier with this area under the ROC curve says that it is positive.

    Scores are normal with variance 1, their mean is 0 for negative items and sqrt(2) Phi^-1(auc) for positive
    ones. What is said is Bayes' rule at the true share of positive items, so it is calibrated. A score
    depends on seed and item alone. Raises BadInput for an AUC outside 0.5..1, or if nothing or everything is
    positive.
    """
    if not 0.5 <= auc <= 1:
        raise BadInput(f"CLASSIFIER_AUC={auc}: give an area between 0.5 (blind) and 1 (sees all)")
    chosen = set(positive)
    if not 0 < len(chosen) < len(items):
        raise BadInput("a classifier needs examples of the behaviour, and others")
    if auc == 1:
        return {i: float(i in chosen) for i in items}
    # here: labels are the core's, scipy is not
    from scipy.stats import norm

    apart, share = 2**0.5 * norm.ppf(auc), len(chosen) / len(items)
    scores = {i: random.Random(f"classifier {seed} {i}").gauss() + apart * (i in chosen) for i in items}
    odds = {i: share / (1 - share) * math.exp(apart * (score - apart / 2)) for i, score in scores.items()}
    return {i: value / (1 + value) for i, value in odds.items()}
