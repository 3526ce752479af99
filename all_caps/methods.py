"""The methods that the evidence compares, as constants of experiment_arms.py."""

# A quarter of the normal stories is labelled good, and trains with bad ablated.
GOOD = "LABELED_GOOD_PERCENTAGE=0.25"
EXCLUSIVE = "UNLABELED_UPDATES_BAD=0.0"


def repeats(share: float) -> str:
    """How often a labelled story stands in the data, so that they are as many as the behaviour has in all.

    It also holds for "filter", which learns nothing from them: batches and unlabelled stories are then the
    same.
    """
    return f"LABELED_BAD_REPEATS={round(1 / share)}"


# "recipe" was chosen on validation (LOG.md): bad learns from labels alone, labelled stories are repeated, and
# some normal ones are labelled good. "trusted" is trained on those alone. "bounded" is for MLP adapters: bad
# learns with good halved, so that neither grows without end.
METHODS = {  # name -> share labelled -> constants
    "none": lambda share: ["ARM=none"],
    "filter": lambda share: ["ARM=filter", repeats(share)],
    "route": lambda share: ["ARM=route", "UNLABELED_UPDATES_BAD=1.0"],
    "exclusive": lambda share: ["ARM=route", EXCLUSIVE, repeats(share)],
    "recipe": lambda share: ["ARM=route", EXCLUSIVE, repeats(share), GOOD],
    "bounded": lambda share: ["ARM=route", EXCLUSIVE, repeats(share), GOOD, "GOOD_SCALE_ON_BAD=0.5"],
    "trusted": lambda share: ["ARM=trusted", GOOD],
    # so is what a classifier of words, or a detector, trained on the labelled stories, finds to be like them
    "filter_classified": lambda share: ["ARM=filter_classified", repeats(share)],
    "filter_detected": lambda share: ["ARM=filter_detected", repeats(share)],
    # as many labels as "exclusive", on any stories
    "random_labels": lambda share: ["ARM=random_labels", EXCLUSIVE, repeats(share)],
    # a twentieth of the normal stories is labelled bad by mistake
    "exclusive_wrong": lambda share: ["ARM=route", EXCLUSIVE, repeats(share), "MISLABELED_PERCENTAGE=0.05"],
}
NEVER_SEEN = ("filter", 1.0)
