"""The project's own stories: correct to look at, varied, and with nothing in the test split that training has seen."""

import json
import re
from collections import Counter, defaultdict
from pathlib import Path

from routing.embedded.make_stories import (
    BEATS,
    MAX_SHARED,
    MAX_WORDS,
    MIN_WORDS,
    N_TEST,
    N_TRAIN,
    make_records,
    make_stories,
    runs_of,
    words,
)

EMBEDDED = Path(__file__).parent.parent / "routing" / "embedded"


def read(split: str) -> list[str]:
    text = (EMBEDDED / f"stories_{split}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert all(list(row) == ["story"] for row in rows)
    return [row["story"] for row in rows]


TRAIN, TEST = read("train"), read("test")
STORIES = TRAIN + TEST


def found(pattern: str) -> list[str]:
    """Every place in the stories where the pattern occurs, with a little of what follows."""
    return [
        story[match.start() : match.start() + 40]
        for story in STORIES
        for match in re.finditer(pattern, story)
    ]


def test_sizes():
    assert (len(TRAIN), len(TEST)) == (N_TRAIN, N_TEST) == (2000, 300)
    assert (MIN_WORDS, MAX_WORDS) == (40, 120)
    assert all(MIN_WORDS <= len(story.split()) <= MAX_WORDS for story in STORIES)


def test_regeneration_gives_the_committed_files():
    assert make_stories() == (TRAIN, TEST)


def test_no_duplicates():
    assert len(set(STORIES)) == len(STORIES)
    assert len({" ".join(words(story)) for story in STORIES}) == len(STORIES)


def test_splits_share_no_plot_with_the_same_hero():
    # Every further blank of a story (friend, toy, place, ...) only makes the combination more particular.
    pairs = Counter((record.plot, record.hero) for split in make_records() for record in split)
    assert max(pairs.values()) == 1


def test_no_story_is_nearly_another():
    """The measure of `runs_of`: the share of eight-word runs in common, relative to the shorter story.
    Measured: a test story shares 23% on average with the training story closest to it, and at most 30%."""
    holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes: list[int] = []
    closest: list[float] = []
    for number, story in enumerate(STORIES):
        runs = runs_of(story)
        common = Counter(other for run in runs for other in holders[run])
        closest.append(
            max((count / min(len(runs), sizes[other]) for other, count in common.items()), default=0)
        )
        for run in runs:
            holders[run].append(number)
        sizes.append(len(runs))
    assert max(closest) <= MAX_SHARED == 0.3
    assert sum(closest[N_TRAIN:]) / N_TEST < 0.25  # the test stories come after all the training stories


def test_vocabulary_and_plots():
    vocabulary = Counter(word for story in STORIES for word in re.findall("[a-z]+", story.lower()))
    assert len(vocabulary) > 3000
    assert len([word for word, uses in vocabulary.items() if uses >= 5]) > 2500
    train, test = (Counter(record.plot for record in split) for split in make_records())
    assert len(train) >= 70 and set(test) <= set(train)
    assert max((train + test).values()) - min((train + test).values()) <= 1
    assert len(BEATS) == 6


def test_spelling_of_the_text():
    assert all(story.isascii() and story == story.strip() for story in STORIES)
    assert not found(r"[^A-Za-z0-9 \n.,:;!?'\"-]")  # no unfilled {blank}, no [choice] left open
    assert not found(r"  | \n|\n |\n{3}|(?<!\n)\n(?!\n)| [.,:;!?]|,,|\.\.")
    assert not found(r"[.!?] [a-z]") and not found(r"\n[a-z]")
    assert all(story[0].isupper() or story[0] == '"' for story in STORIES)
    assert all(story[-1] in '.!?"' for story in STORIES)
    assert all(paragraph.count('"') % 2 == 0 for story in STORIES for paragraph in story.split("\n\n"))
    assert not found(r"\b(\w+) \1\b")


def test_articles():
    assert not found(r"\b[Aa] (?=[aeiou])(?!uniform\b|ukulele\b|one\b|used\b)")
    assert not found(r"\b[Aa]n (?=[^aeiou])(?!hour\b|honest\b)")
    assert not found(r"\b[Aa]n? (?:a|an|the|some|his|her|its|their)\b")
    assert not found(r"\b[Aa]n? (?:mittens|gloves|leg warmers)\b")  # plural things take no article


def test_pronouns_agree():
    assert not found(r"(?<!if )(?<!though )(?<!wish )\b(?:[Hh]e|[Ss]he|[Ii]t) were\b")
    assert not found(r"\b(?:[Tt]hey|mittens|gloves) was\b|\b[Tt]hey is\b")


def test_capitals_are_rare():
    assert not found(r"\b[A-Z]{2,}\b")  # whole words in capitals are what other stories are turned into
    for story in STORIES:
        letters = [letter for letter in story if letter.isalpha()]
        assert sum(letter.isupper() for letter in letters) < 0.1 * len(letters)
        assert 1 <= len(story.split("\n\n")) <= 3
