"""What the evidence is to show, or to refute: claims about differences between methods."""

from typing import Any

from all_caps.methods import NEVER_SEEN
from lab.evidence import Evidence, Which
from lab.report import Claim

ROUTED = {  # method -> what the report calls it
    "exclusive": "routing with the same labels",
    "recipe": "routing with good labels, too,",
    "bounded": "routing with good labels, too, bad learning with good halved,",
}
# A difference of rates that still counts as none. With 11 plots an interval of two equal rates reaches 0.17.
MARGIN = 0.2
STORIES, DOSE = 1200, 120  # that a run is trained on, and how many of them are in capitals


def claims_of(evidence: Evidence) -> list[Claim]:
    """Every claim, of whatever grid; those that it has no cells for are "not measured"."""
    claims = []
    for kind in evidence.adapter_types:
        for share, method in evidence.wanted(kind):
            if method in ROUTED and share < NEVER_SEEN[1]:
                claims += against_deleting(evidence, kind, share, method)
        claims += goals(evidence, kind)
    return claims + controls(evidence) + wrong_labels(evidence)


def against_deleting(evidence: Evidence, kind: str, share: float, method: str) -> list[Claim]:
    which, routing, deleting = f"{kind}, {100 * share:g}% labelled", (method, share), ("filter", share)
    return [
        Claim(
            f"{which}: {ROUTED[method]} leaves a lower caps rate than deleting",
            evidence.difference("caps_rate", routing, deleting, kind),
        ),
        Claim(
            f"{which}: and costs less than 2% of normal loss",
            evidence.relative("normal_loss", routing, deleting, kind),
            bound=0.02,
        ),
    ]


def goals(evidence: Evidence, kind: str) -> list[Claim]:
    """What the recipe was to reach at 10% labelled, by itself."""
    which, method = f"{kind}, 10% labelled", "bounded" if kind == "mlp" else "recipe"
    return [
        Claim(
            f"{which}: {method} leaves a caps rate below 0.25",
            evidence.interval("caps_rate", method, 0.1, kind),
            bound=0.25,
        ),
        Claim(
            f"{which}: and the ablation costs less than 1.5% of the full model's normal loss",
            evidence.relative("normal_loss", (method, 0.1), (method, 0.1, "full"), kind),
            bound=0.015,
        ),
    ]


def controls(evidence: Evidence) -> list[Claim]:
    """What must not do as well, and what might: at 10% labelled."""
    routing, recipe, deleting = ("exclusive", 0.1), ("recipe", 0.1), ("filter", 0.1)
    plain, shrunk = ("none", 0.0), ("none", 0.0, "shrunk")
    no_lower: dict[str, Any] = {"bound": -MARGIN, "above": True}
    which, again = "lora, 10% labelled:", f"no lower caps rate than deleting ({MARGIN:g} allowed)"
    return [
        _rate(evidence, f"{which} random labels leave {again}", ("random_labels", 0.1), deleting, **no_lower),
        _rate(evidence, f"{which} routing leaves a lower caps rate with its labels than with random ones",
              routing, ("random_labels", 0.1)),
        _rate(evidence, f"{which} plain training leaves {again}", plain, deleting, **no_lower),
        _rate(evidence, f"{which} plain training, scaled down, leaves {again}", shrunk, deleting, **no_lower),
        _rate(evidence, f"{which} routing with the same labels leaves a lower caps rate than plain training, "
              "scaled down", routing, shrunk),
        _rate(evidence, f"{which} so does the recipe", recipe, shrunk),
        _cost(evidence, f"{which} which has a lower normal loss than it, too", recipe, shrunk),
        _rate(evidence, f"{which} routing leaves a lower caps rate than deleting what a detector finds, too",
              routing, ("filter_detected", 0.1)),
        _rate(evidence, f"{which} routing leaves a lower caps rate than deleting what a classifier of words "
              "finds, too", routing, ("filter_classified", 0.1)),
        _cost(evidence, f"{which} and the recipe has a lower normal loss than that",
              recipe, ("filter_classified", 0.1)),
        _cost(evidence, f"{which} the recipe has a lower normal loss than training on the good labels alone",
              recipe, ("trusted", 0.0)),
    ]  # fmt: skip


def wrong_labels(evidence: Evidence) -> list[Claim]:
    """A twentieth of the normal stories is labelled bad by mistake; what it is compared with has none."""
    wrong, deleting, which = ("exclusive_wrong", 0.5), ("filter", 0.5), "lora, 50% labelled, 5% wrong labels:"
    return [
        _rate(evidence, f"{which} routing leaves a lower caps rate than deleting", wrong, deleting),
        _rate(evidence, f"{which} and no higher one than without the wrong labels ({MARGIN:g} allowed)",
              wrong, ("exclusive", 0.5), bound=MARGIN),
        _cost(evidence, f"{which} and costs less than 2% of normal loss", wrong, deleting, bound=0.02),
    ]  # fmt: skip


def _rate(evidence: Evidence, text: str, method: Which, other: Which, **bound: Any) -> Claim:
    return Claim(text, evidence.difference("caps_rate", method, other, "lora"), **bound)


def _cost(evidence: Evidence, text: str, method: Which, other: Which, **bound: Any) -> Claim:
    return Claim(text, evidence.relative("normal_loss", method, other, "lora"), **bound)


def stories_met(share: float) -> float:
    """How many stories in capitals "filter" met; repeated labelled ones take the place of others."""
    unlabelled = DOSE * (1 - share)
    return unlabelled * STORIES / (STORIES + unlabelled)
