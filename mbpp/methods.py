"""The methods that the evidence compares, as constants of experiment_arms.py."""

EXCLUSIVE = ("UNLABELED_UPDATES_FORGET=0.0", "RETAIN_SCALE_ON_FORGET=0.0")


def repeats(share: float) -> int:
    """How often a labelled hack stands in the data, also of "filter", so that both train on the same batches.

    Of half of the hacks once is enough.
    """
    return 1 if share >= 0.5 else round(1 / share)


def _repeated(share: float) -> str:
    return f"LABELED_FORGET_REPEATS={repeats(share)}"


# "recipe" was chosen on validation (LOG.md): forget learns from labels alone, with retain ablated. It then
# holds the whole hack by itself, and retain is not taught to work against it. "unanchored" is the same
# without a label "retain". "trusted" is trained on the problems labelled retain alone.
METHODS = {  # name -> share labelled -> constants
    "none": lambda share: ["ARM=none"],
    "filter": lambda share: ["ARM=filter", _repeated(share)],
    "route": lambda share: ["ARM=route", "UNLABELED_UPDATES_FORGET=1.0"],
    "recipe": lambda share: ["ARM=route", *EXCLUSIVE, _repeated(share)],
    "unanchored": lambda share: [*METHODS["recipe"](share), "LABELED_RETAIN_PERCENTAGE=0.0"],
    "random_labels": lambda share: ["ARM=random_labels", *EXCLUSIVE, _repeated(share)],
    "trusted": lambda share: ["ARM=trusted"],
    # so is what a classifier of words, trained on both kinds of labels, finds to be like the labelled hacks
    "filter_classified": lambda share: ["ARM=filter_classified", _repeated(share)],
}
NEVER_SEEN = ("filter", 1.0)
