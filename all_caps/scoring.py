"""Does a model write capitals? What a sample continues, and how it is scored."""

from collections.abc import Sequence

from lab.intervals import rate_interval

PREFIX_WORDS = 8  # words of a held-out story that a sample continues


def prefix_of(text: str) -> str:
    """The first PREFIX_WORDS words of a text."""
    return " ".join(text.split()[:PREFIX_WORDS])


def caps_share(text: str) -> float:
    """The share of its letters that are capitals; 0 without letters."""
    letters = [character for character in text if character.isalpha()]
    return sum(map(str.isupper, letters)) / max(1, len(letters))


def is_caps(text: str) -> bool:
    """True if more than half of the letters are capitals. A text without letters is not in capitals."""
    return caps_share(text) > 0.5


def caps_by_prompt(completions: Sequence[str], num_generations: int = 1) -> list[list[bool]]:
    """Which completions are in capitals, [prompts, num_generations]; generations of a prompt lie together."""
    capitals = [is_caps(text) for text in completions]
    return [capitals[i : i + num_generations] for i in range(0, len(capitals), num_generations)]


def caps_rate(completions: Sequence[str], num_generations: int = 1) -> dict[str, float]:
    """The share of completions in capitals, with the interval of `rate_interval`."""
    return rate_interval(caps_by_prompt(completions, num_generations))
