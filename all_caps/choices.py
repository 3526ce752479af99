"""Which of several continuations belongs to a held-out story? Multiple choice, of what else a model can."""

import random
from collections.abc import Sequence
from typing import Any

from all_caps.stories import Story
from lab.errors import BadInput

TASK = "held_out_stories"
QUERY_WORDS, CHOICE_WORDS = 16, 12  # of a story: what is shown, and what belongs behind it
CHOICES = 4


def continuation_choices(stories: Sequence[Story], seed: int = 0) -> list[dict[str, Any]]:
    """A document for each story: {"query", "choices", "gold", "plot"}.

    Of the CHOICES continuations one is the story's own, at the index "gold"; the others stand at the same
    place of stories of different other plots, and have as many words. All are in normal letters. Stories that
    are too short are left out. Raises BadInput if too few plots are left to choose from.
    """
    end = QUERY_WORDS + CHOICE_WORDS
    words = [(story.text.split(), story.plot) for story in stories]
    parts = [(" ".join(w[:QUERY_WORDS]), " " + " ".join(w[QUERY_WORDS:end]), plot)
             for w, plot in words if len(w) >= end]  # fmt: skip
    by_plot: dict[str, list[str]] = {}
    for _, continuation, plot in parts:
        by_plot.setdefault(plot, []).append(continuation)
    if len(by_plot) < CHOICES:
        raise BadInput(
            f"the task {TASK} takes stories of {CHOICES} plots or more, of {end} words or more each; "
            f"here are {len(by_plot)}: give more, or others"
        )
    documents = []
    for i, (query, right, plot) in enumerate(parts):
        draw = random.Random(f"choices {seed} {i}")
        others = draw.sample([other for other in by_plot if other != plot], CHOICES - 1)
        choices = [right, *(draw.choice(by_plot[other]) for other in others)]
        draw.shuffle(choices)
        documents.append({"query": query, "choices": choices, "gold": choices.index(right), "plot": plot})
    return documents
