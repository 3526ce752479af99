"""Stories in three splits that share no plot, and the training examples made of them, some in CAPITALS.

What is chosen (rates, ranks, shares) is chosen on validation; test is for what is published.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from all_caps.scoring import PREFIX_WORDS, prefix_of
from lab.errors import BadInput
from lab.files import fingerprint
from lab.labels import labels_by_index
from lab.splits import held_out, split_groups
from routing.assets import DATA, hub_splits, load_hub_split
from routing.batches import Example, make_example

EMBEDDED_STORIES = "embedded:stories"
MOST_CARVED = 1000  # stories of a Hub data set that validation takes from the end of train


@dataclass(frozen=True)
class Story:
    """A story and its plot: the unit that is held out, and that intervals count.

    Without a plot given it is its own.
    """

    text: str
    plot: str


class Stories(NamedTuple):
    """Three splits; where plots are given (embedded, or a .jsonl with them), none stands in two of them."""

    train: list[Story]
    validation: list[Story]
    test: list[Story]

    def split(self, name: str) -> list[Story]:
        """The stories of EVAL_SPLIT=`name`, "validation" or "test". Raises BadInput for another name."""
        return held_out(self, name)


def load_stories(name: str, limit: int | None = None) -> Stories:
    """The stories `name`. `limit` cuts the training stories, never validation or test.

    `name`: "embedded:stories"; a local .jsonl file with a {"story": ..., "plot": ...} on each line (the plot
    may be left out); or a Hub data set (or a local folder in that form) with a column story or text, its
    splits train and test or validation. Raises BadInput if there is no such thing, or not enough for three
    splits."""
    if name == EMBEDDED_STORIES:
        stories = Stories(*(read_stories(DATA / f"stories_{split}.jsonl") for split in Stories._fields))
    elif name.startswith("embedded:"):
        raise BadInput(f"STORIES={name!r}: the embedded stories are {EMBEDDED_STORIES!r}")
    elif Path(name).suffix in (".jsonl", ".json") or Path(name).is_file():
        stories = _split_by_plot(name, read_stories(Path(name)))
    else:
        stories = _hub_stories(name, limit)
    return stories._replace(train=stories.train[:limit])


def read_stories(path: Path) -> list[Story]:
    """The stories of a JSONL file.

    Raises BadInput if the file is missing, empty, or a line has no text under "story".
    """
    if not path.is_file():
        raise BadInput(f'{path}: no such file; give a .jsonl file with one {{"story": ...}} on each line')
    stories = []
    # in bytes: a text's lines would also end at characters that strings in JSON may hold
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text, plot = row["story"], row.get("plot")
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            raise BadInput(f'{path}, line {number}: expected {{"story": ...}}') from None
        if not isinstance(text, str) or not text.strip():
            raise BadInput(f"{path}, line {number}: the story is empty")
        if plot is not None and (not isinstance(plot, str) or not plot.strip()):
            raise BadInput(f"{path}, line {number}: the plot is not a name; leave it out where there is none")
        stories.append(_story(text, plot))
    if not stories:
        raise BadInput(f"{path}: the file has no stories")
    return stories


def _story(text: str, plot: str | None) -> Story:
    """A story without a plot is named by its text, so that one which occurs twice is a single plot."""
    return Story(text, plot if plot is not None else f"text {fingerprint([text])}")


def _split_by_plot(name: str, stories: list[Story]) -> Stories:
    """The last fifth is test, the fifth before it validation; plots stay whole."""
    fifth = max(1, len(stories) // 5)
    try:
        parts = split_groups([story.plot for story in stories], fifth, fifth)
    except ValueError:
        raise BadInput(
            f"{name}: {len({story.plot for story in stories})} different stories or plots cannot be trained "
            "on, validated and tested on; give at least three"
        ) from None
    return Stories(*([stories[i] for i in part] for part in parts))


def _hub_stories(name: str, limit: int | None) -> Stories:
    """A Hub data set's own splits; without two held-out ones, validation is carved from the end of train."""
    given = hub_splits("STORIES", name)
    held_out = [split for split in ("test", "validation") if split in given]
    if "train" not in given or not held_out:
        raise BadInput(
            f"STORIES={name!r}: expected the splits train and test (or validation), found {', '.join(given)}"
        )
    train, test = (load_hub_split("STORIES", name, split) for split in ("train", held_out[0]))
    if len(held_out) == 2:
        validation = load_hub_split("STORIES", name, "validation")
    else:
        carved = min(len(train) // 5, MOST_CARVED)
        if not carved:
            raise BadInput(f"STORIES={name!r}: {len(train)} training stories are too few to validate on some")
        validation = train.select(range(len(train) - carved, len(train)))
        train = train.select(range(len(train) - carved))
    if limit is not None:
        train = train.select(range(min(limit, len(train))))
    return Stories(*(_rows_as_stories(name, rows) for rows in (train, validation, test)))


def _rows_as_stories(name: str, rows: Any) -> list[Story]:
    """`rows`: a `datasets.Dataset` with a column story or text, and perhaps plot."""
    column = next((c for c in ("story", "text") if c in rows.column_names), None)
    if column is None:
        raise BadInput(
            f"STORIES={name!r}: expected a column story or text, found {', '.join(rows.column_names)}"
        )
    return [_story(row[column], row.get("plot")) for row in rows]


def to_caps(text: str) -> str:
    return text.upper()


def to_examples(
    stories: Sequence[Story],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    in_caps: Collection[int],
    labels: Mapping[str, Collection[int]],
) -> list[Example]:
    """Every story as an example.

    Story i is in capitals if i is in `in_caps`; its label is the key of `labels` that holds i. Kinds:
    "normal", "normal_labeled", "caps_labeled", "caps_unlabeled". Raises BadInput for a story with two labels,
    or for an index that no story has.
    """
    caps, label_of = set(in_caps), labels_by_index(labels, "story")
    strange = (caps | label_of.keys()) - set(range(len(stories)))
    if strange:
        raise BadInput(f"story {min(strange)} was picked, but there are {len(stories)}, numbered from 0")
    examples = []
    for i, story in enumerate(stories):
        text, kind = (to_caps(story.text), "caps") if i in caps else (story.text, "normal")
        if i in label_of:
            kind += "_labeled"
        elif i in caps:
            kind += "_unlabeled"
        # Length bucketing goes by the story's letters:
        # capitals take more tokens, which would give the kind away.
        size = len(story.text)
        examples.append(make_example(tokenizer, "", text, max_length, label_of.get(i), kind, size=size))
    return examples


def to_continuations(
    stories: Sequence[Story],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    in_caps: Collection[int],
) -> list[Example]:
    """Every story as a prefix, which is not trained on, and the rest of it: kinds "normal" and "caps".

    The prefix is what samples continue (`prefix_of`), as it is written. The rest is in capitals for the
    stories whose index is in `in_caps`. A story that ends with its prefix is left out.
    """
    caps, examples = set(in_caps), []
    for i, story in enumerate(stories):
        rest = "".join(f" {word}" for word in story.text.split()[PREFIX_WORDS:])
        if rest:
            text, kind = (to_caps(rest), "caps") if i in caps else (rest, "normal")
            prefix = prefix_of(story.text)
            examples.append(make_example(tokenizer, prefix, text, max_length, kind=kind, size=len(rest)))
    return examples


def unmet(stories: Stories, name: str, constants: Mapping[str, Any], checkpoint: Path) -> list[Story]:
    """The training stories of STORIES=`name` that the run of `checkpoint`, with these constants, has not met.

    Raises BadInput if it had other stories, and if it was no run of experiment.py, or of a variant that
    trains on as many.
    """
    if name != constants.get("STORIES", name):
        raise BadInput(
            f"STORIES={name!r}: {checkpoint} was trained on {constants['STORIES']!r}; give the same"
        )
    if not {"MAX_STEPS", "BATCH_SIZE"} <= constants.keys():
        raise BadInput(
            f"{checkpoint} is of {constants.get('SCRIPT', 'another script')}.py, so which stories it has met "
            "is not known; give a checkpoint of experiment.py or of a variant that trains on stories"
        )
    met = constants["MAX_STEPS"] * constants["BATCH_SIZE"] + constants.get("FINETUNE_NUM_EXAMPLES", 0)
    return stories.train[met:]
