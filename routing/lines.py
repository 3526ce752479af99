"""Lines of somebody's own data: rows checked, made into examples, and split without a common group.

What is wrong with lines is said of all of them at once, by number and reason; none is left out silently.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from lab.errors import BadInput
from lab.files import fingerprint
from lab.labels import labels_by_index
from lab.splits import held_out, split_groups
from routing.batches import Example, make_example
from routing.rows import COLUMN_NAMES, Row, parse_column_names, parse_row, rename_columns, text_of

LABELS = ("bad", "good")
MARKS = ("label", "kind", "group")  # columns that say something about a line
MOST_NAMED = 5  # wrong lines that a message names
MOST_HELD_OUT = 1000  # lines that validation and test take each

# what a task says of its data
PromptAndResponse = Callable[[Row, PreTrainedTokenizerBase], tuple[str, str]]
ShowsBehaviour = Callable[[str, str], bool]


@dataclass(frozen=True)
class Line:
    """A line of the data, as text and as an example.

    The example is cut to the maximal length, and has the label and the kind that the data give. Lines of one
    `group` stand in one split, and are one unit of intervals; so do those that `asked` the same. Their order
    goes by `place`.
    """

    prompt: str
    response: str
    group: str
    asked: str
    place: str
    shows_behaviour: bool
    example: Example


class Lines(NamedTuple):
    """Three splits without a common group."""

    train: list[Line]
    validation: list[Line]
    test: list[Line]

    def split(self, name: str) -> list[Line]:
        """The lines of EVAL_SPLIT=`name`, "validation" or "test". Raises BadInput for another name."""
        return held_out(self, name)


def make_lines(
    rows: Sequence[tuple[int, Any]],
    column_names: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    prompt_and_response: PromptAndResponse,
    shows_behaviour: ShowsBehaviour,
) -> Lines:
    """The rows of `read_rows` in three splits; prints how many there are, and what may surprise.

    `column_names`: see `parse_column_names`. The two functions are the task's: a row as prompt and response,
    and whether these show the behaviour. About a fifth of the lines is test, another validation (or
    MOST_HELD_OUT), in whole groups. A line without a group is in that of its prompt, or without one of its
    text; groups with a prompt in common are one. Where lines go depends on what the rows say, not on their
    order or labels, nor on the chat template (some write today's date); more rows are split anew. Raises one
    BadInput that names the wrong lines.
    """
    theirs = parse_column_names(column_names)
    lines, wrong = [], []
    columns: set[str] = set()
    for number, row in rows:
        try:
            row = parse_row(row)
            columns |= row.keys()
            row = rename_columns(row, theirs)
            lines.append(_line(row, tokenizer, max_length, prompt_and_response, shows_behaviour))
        except BadInput as reason:
            wrong.append(f"line {number}: {reason}")
        except KeyError as column:
            wrong.append(f"line {number}: no column {column}")
    absent = set(theirs.values()) - columns
    if absent and columns:
        raise BadInput(
            f"COLUMN_NAMES={column_names!r}: no line has a column {', '.join(sorted(absent))}; "
            f"there are {', '.join(sorted(columns))}"
        )
    if wrong:
        more = [f"and {len(wrong) - MOST_NAMED} more"] if len(wrong) > MOST_NAMED else []
        reasons = "\n  ".join(wrong[:MOST_NAMED] + more)
        raise BadInput(
            f"DATA: {len(wrong)} of {len(rows)} lines cannot be used; mend them or take them out\n  {reasons}"
        )
    splits = _split(lines)
    _describe(splits, tokenizer, max_length)
    others = columns - {theirs.get(name, name) for name in COLUMN_NAMES}
    if others:
        print(f"columns of no meaning here: {', '.join(sorted(others))}")
    return splits


def labeled(lines: Sequence[Line], label: str) -> list[int]:
    """Which lines the data label so, by index."""
    return [i for i, line in enumerate(lines) if line.example.label == label]


def to_examples(lines: Sequence[Line], labels: Mapping[str, Collection[int]]) -> list[Example]:
    """Every line as a training example. Its label is the key of `labels` that holds its index, if any.

    Kinds are the lines' own with the label or "unlabeled": "behaviour_bad", "behaviour_unlabeled". Raises
    BadInput for a line with two labels.
    """
    label_of = labels_by_index(labels, "line")
    return [
        replace(
            line.example,
            label=label_of.get(i),
            kind=f"{line.example.kind}_{label_of.get(i, 'unlabeled')}",
        )
        for i, line in enumerate(lines)
    ]


def _line(
    row: Row,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    prompt_and_response: PromptAndResponse,
    shows_behaviour: ShowsBehaviour,
) -> Line:
    label, group = row.get("label"), row.get("group")
    if label is not None and label not in LABELS:
        raise BadInput(f'label is {label!r}; give "bad", "good" or null')
    if group is not None and not isinstance(group, str | int):
        raise BadInput(f"group is {group!r}; give a name or a number")
    prompt, response = prompt_and_response(row, tokenizer)
    # what a turn of a conversation says, without the chat template's mark of its end
    said = row["messages"][-1]["content"] if "messages" in row else response
    shows = bool(shows_behaviour(prompt, said))
    kind = text_of(row, "kind", "behaviour" if shows else "other")
    # Length bucketing goes by the prompt: the length of the response may give away what it is.
    example = make_example(tokenizer, prompt, response, max_length, label, kind, size=len(prompt))
    said = row["messages"][:-1] if "messages" in row else row.get("prompt") or row.get("text")
    asked = _fingerprint(said or prompt or response)
    place = _fingerprint({name: value for name, value in row.items() if name not in MARKS})
    return Line(prompt, response, asked if group is None else str(group), asked, place, shows, example)


def _join_groups(lines: list[Line]) -> list[Line]:
    """The lines; groups that have a prompt in common are one."""
    joined: dict[str, str] = {}

    def end(name: str) -> str:
        while name in joined:
            name = joined[name]
        return name

    first: dict[str, str] = {}
    for line in lines:
        group, other = end(line.group), end(first.setdefault(line.asked, line.group))
        if group != other:
            joined[group] = other
    return [replace(line, group=end(line.group)) for line in lines]


def _fingerprint(value: Any) -> str:
    return fingerprint([json.dumps(value, sort_keys=True, default=str)])


def _split(lines: list[Line]) -> Lines:
    # a file may be sorted, by label for example
    lines = _join_groups(sorted(lines, key=lambda line: line.place))
    fifth = min(MOST_HELD_OUT, max(1, len(lines) // 5))
    try:
        parts = split_groups([line.group for line in lines], fifth, fifth)
    except ValueError:
        raise BadInput(
            "DATA: it takes three different prompts (or texts, or values of group): "
            "one each to train on, to validate on and to test on"
        ) from None
    return Lines(*([lines[i] for i in part] for part in parts))


def _describe(lines: Lines, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    counts = [
        f"{name} {len(part)} ({sum(line.shows_behaviour for line in part)})"
        for name, part in lines._asdict().items()
    ]
    print(f"lines, and in brackets those that show the behaviour: {', '.join(counts)}")
    labels = Counter(line.example.label for line in lines.train)
    print(f"labels in train: bad {labels['bad']}, good {labels['good']}, none {labels[None]}")
    everything = [line for part in lines for line in part]
    strange = sum(line.example.label == ("good" if line.shows_behaviour else "bad") for line in everything)
    if strange:
        print(f"labels that say otherwise than shows_behaviour: {strange}")
    # what is whole ends in EOS
    cut = sum(
        len(line.example.ids) == max_length and line.example.ids[-1] != tokenizer.eos_token_id
        for line in everything
    )
    if cut:
        print(f"lines of more than MAX_SEQ_LENGTH={max_length} tokens: {cut}; what is beyond is left out")
