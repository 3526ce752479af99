"""Does a model tell capitals when it sees them? Asked in words, which answer does it find likelier?

What is measured is the log-odds of yes over no. A model may lean to one answer whatever it is shown. Then its
accuracy is 0.5 although it sees the difference; the AUC, which needs no threshold, tells.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from adapters import Route
from all_caps.stories import Story, to_caps
from lab.errors import BadInput
from lab.intervals import auc_interval, mean_interval, rate_interval
from lab.tables import Column
from routing.losses import answer_log_likelihoods

_ASKED, _ODDS = "asked whether a text is in capitals", "log-odds of yes over no (nats)"
# What tables and figures show of a mode's perception.
COLUMNS = [
    Column(("perception", "accuracy"), "answers right", _ASKED, bounded=True),
    Column(("perception", "auc"), "AUC", _ASKED, bounded=True),
    Column(("perception", "log_odds", "difference"), "log-odds, CAPS minus normal", _ODDS, bounded=False),
]


def check_question(question: str, answers: Sequence[str]) -> None:
    """Raise BadInput unless `question` has a place for the text, and there are two `answers`."""
    if "{text}" not in question or len(answers) != 2:
        raise BadInput(
            'QUESTION must have a "{text}" in it, and ANSWERS must be a yes and a no, in this order'
        )


def yes_log_odds(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    stories: Sequence[Story],
    question: str,
    answers: Sequence[str],
    words: int,
    route: Route,
) -> dict[str, list[float]]:
    """The log-odds of the first answer over the second: kind of text, "caps" or "normal" -> [stories].

    The question is asked of the first `words` words of each story, in capitals and as they are, with the
    scales of `route`.
    """
    normal = [" ".join(story.text.split()[:words]) for story in stories]
    odds = {}
    for kind, texts in {"caps": [to_caps(text) for text in normal], "normal": normal}.items():
        questions = [question.replace("{text}", text) for text in texts]
        found = answer_log_likelihoods(model, tokenizer, questions, answers, route)
        odds[kind] = [yes - no for yes, no in found]
    return odds


def perception(odds: Mapping[str, Sequence[float]], plots: Sequence[Hashable]) -> dict[str, Any]:
    """95% intervals of what `yes_log_odds` gives, with the plot as the unit.

    "accuracy": the share of texts, half of them in capitals, whose right answer is the likelier one. "auc":
    the chance that a text in capitals has higher log-odds than a normal one. "log_odds": their means of
    "caps", of "normal", and of the "difference", story by story.
    """
    caps, normal = odds["caps"], odds["normal"]
    right = [[a > 0, b < 0] for a, b in zip(caps, normal, strict=True)]
    difference = [a - b for a, b in zip(caps, normal, strict=True)]
    log_odds = {"caps": caps, "normal": normal, "difference": difference}
    return {
        "accuracy": rate_interval(right, plots),
        "auc": auc_interval(caps, normal, plots),
        "log_odds": {kind: mean_interval(values, plots) for kind, values in log_odds.items()},
    }
