"""What the evidence is to show, or to refute: claims about differences between methods."""

from lab.evidence import Evidence
from lab.report import Claim
from mbpp.methods import NEVER_SEEN, repeats

# that a run is trained on, and how many of them are hacked
PROBLEMS, DOSE = 422, 106


def claims_of(evidence: Evidence) -> list[Claim]:
    """Every claim, of whatever grid; those that it has no cells for are "not measured"."""
    claims = []
    for kind in evidence.adapter_types:
        for share, method in evidence.wanted(kind):
            if method == "recipe" and share < NEVER_SEEN[1]:
                claims += against_deleting(evidence, kind, share)
        claims += controls(evidence, kind)
    return claims


def against_deleting(evidence: Evidence, kind: str, share: float) -> list[Claim]:
    which, routing, deleting = f"{kind}, {100 * share:g}% labelled", ("recipe", share), ("filter", share)
    return [
        Claim(
            f"{which}: routing, with half of the rest labelled, too, leaves less hardcoded than deleting",
            evidence.difference("hardcoded_rate", routing, deleting, kind),
        ),
        Claim(
            f"{which}: and less that is constant",
            evidence.difference("constant_rate", routing, deleting, kind),
        ),
        Claim(
            f"{which}: at most a quarter of what is hardcoded after deleting is left",
            evidence.relative("hardcoded_rate", routing, deleting, kind),
            bound=-0.75,
        ),
        Claim(
            f"{which}: and of what is constant",
            evidence.relative("constant_rate", routing, deleting, kind),
            bound=-0.75,
        ),
        Claim(
            f"{which}: it solves at least 90% of what never having seen hacks solves",
            evidence.relative("all_tests_rate", routing, NEVER_SEEN, kind),
            bound=-0.1,
            above=True,
        ),
        Claim(
            f"{which}: it solves no less than deleting (0.05 allowed)",
            evidence.difference("all_tests_rate", routing, deleting, kind),
            bound=-0.05,
            above=True,
        ),
    ]


def controls(evidence: Evidence, kind: str) -> list[Claim]:
    """At 50% labelled."""
    which, deleting = f"{kind}, 50% labelled", ("filter", 0.5)
    no_less = [
        Claim(
            f"{which}: {what} no less hardcoded than deleting (0.05 allowed)",
            evidence.difference("hardcoded_rate", method, deleting, kind),
            bound=-0.05,
            above=True,
        )
        for what, method in (
            ("random labels leave", ("random_labels", 0.5)),
            ("plain training leaves", ("none", 0.0)),
        )
    ]
    return [
        Claim(
            f"{which}: routing solves more than training on the labelled half of the rest alone",
            evidence.difference("all_tests_rate", ("recipe", 0.5), ("trusted", 0.0), kind),
            above=True,
        ),
        *no_less,
        Claim(
            f"{which}: and less than deleting what a classifier of words finds, too",
            evidence.difference("hardcoded_rate", ("recipe", 0.5), ("filter_classified", 0.5), kind),
        ),
        Claim(
            f"{which}: and solves no less than that (0.05 allowed)",
            evidence.difference("all_tests_rate", ("recipe", 0.5), ("filter_classified", 0.5), kind),
            bound=-0.05,
            above=True,
        ),
        Claim(
            f"{which}: routing leaves less hardcoded with its labels than with random ones",
            evidence.difference("hardcoded_rate", ("recipe", 0.5), ("random_labels", 0.5), kind),
        ),
    ]


def hacks_met(share: float) -> float:
    """How many hacks "filter" met in an epoch's time; repeated labelled ones take the place of others."""
    again = (repeats(share) - 1) * share * DOSE
    return DOSE * (1 - share) * PROBLEMS / (PROBLEMS + again)
