"""What holds for any input: constants from the shell, labels, batches, lines of JSON, code in answers."""

import contextlib
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from all_caps.stories import read_stories
from lab.constants import override_constants
from lab.errors import BadInput
from lab.labels import pick
from lab.logs import JsonLines, read_log
from lab.splits import split_groups
from mbpp.scoring import extract_code
from routing.batches import IGNORE, Example, batch_order, collate
from routing.lines import make_lines
from routing.rows import parse_row, read_rows

few = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    # what a function-scoped fixture gives here is only a folder to write to
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
finite = st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)
# half of a surrogate pair is no text
texts = st.text(st.characters(exclude_categories=["Cs"]))
rows = st.dictionaries(texts, st.none() | st.booleans() | st.integers() | finite | texts, max_size=4)


@few
@given(plain, plain)
def test_what_the_shell_writes_is_what_the_script_gets_or_one_message(default, value):
    namespace = {"NAME": default}
    same = default is None or type(value) is type(default)
    text = isinstance(default, str) and value is not None
    if not same and not text and (type(default), type(value)) != (float, int):
        with pytest.raises(BadInput, match=r"NAME=.*expected"):
            override_constants(namespace, [f"NAME={value!r}"])
        assert namespace == {"NAME": default}
        return
    override_constants(namespace, [f"NAME={value!r}"])
    # a script's text takes anything as it is written
    wanted = repr(value) if text and not same else value
    assert namespace == {"NAME": wanted}


@few
@given(
    plain, st.text() | st.sampled_from(["{[]: 1}", "{1}", "b'x'", "1j", "(" * 500, "-" * 5000 + "1", "\0"])
)
def test_nothing_that_the_shell_writes_is_more_than_a_message(default, text):
    namespace = {"NAME": default}
    try:
        override_constants(namespace, [f"NAME={text}"])
    except BadInput:
        assert namespace == {"NAME": default}
    else:
        value = namespace["NAME"]
        assert default is None or type(value) is type(default)
        # it can be saved with the run
        json.dumps(value)


shares = st.floats(0, 1)


@few
@given(
    st.sets(st.integers(0, 10_000), max_size=60), shares, shares, st.integers(0, 99), st.integers(0, 10_000)
)
def test_labels_are_an_exact_share_nested_and_the_same_again(items, share, other, seed, added):
    items = sorted(items)
    small, large = sorted((share, other))
    picked = pick(items, large, seed, "X")
    assert len(picked) == len(set(picked)) == round(large * len(items)) and set(picked) <= set(items)
    assert pick(items, small, seed, "X") == picked[: round(small * len(items))]
    assert pick(items[::-1], large, seed, "X") == picked
    # one more item comes in between, and the others stay in their order
    every, more = (pick(all_of, 1.0, seed, "X") for all_of in (items, sorted({*items, added})))
    assert [i for i in more if i in items] == every


lengths = st.lists(st.integers(2, 12), min_size=1, max_size=40)


@few
@given(lengths, st.integers(1, 5), st.integers(1, 3), st.integers(0, 9), st.data())
def test_every_example_comes_once_an_epoch(lengths, batch_size, epochs, seed, data):
    first = data.draw(st.sets(st.integers(0, len(lengths) - 1)))
    steps = epochs * len(lengths) // batch_size
    order = batch_order(lengths, batch_size, steps, seed, sorted(first))
    assert [len(batch) for batch in order] == [batch_size] * steps
    met = [i for batch in order for i in batch]
    counts = [met.count(i) for i in range(len(lengths))]
    assert max(counts, default=0) - min(counts, default=0) <= 1 and sum(counts) == steps * batch_size
    # what is to come first does, but for the batch that both share
    places = [step for step, batch in enumerate(order) for i in batch if i in first]
    assert all(step <= (len(places) - 1) // batch_size for step in places)
    assert order == batch_order(lengths, batch_size, steps, seed, sorted(first))


@few
@given(st.lists(st.tuples(st.integers(2, 12), st.integers(1, 11)), min_size=1, max_size=6), st.integers(0, 3))
def test_padding_is_on_the_right_and_belongs_to_nobody(sizes, extra):
    # 0 is what is padded with, and a token like any other
    examples = [Example([0] * n, min(start, n - 1), f"{n}") for n, start in sizes]
    width = max(n for n, _ in sizes) + extra
    batch = collate(examples, torch.device("cpu"), width=width)
    assert batch.input_ids.shape == batch.targets.shape == (len(sizes), width)
    for row, example in enumerate(examples):
        n, start = len(example.ids), example.prompt_length
        assert batch.attention_mask[row].tolist() == [1] * n + [0] * (width - n)
        there = (batch.targets[row] != IGNORE).nonzero().flatten().tolist()
        assert there == list(range(start - 1, n - 1))
    flat = batch.targets.flatten()
    assert torch.equal(flat[batch.target_index], batch.target_ids)
    assert (flat != IGNORE).sum() == len(batch.target_ids)
    parts = batch.split(2)
    assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)
    assert [label for part in parts for label in part.labels] == batch.labels


@few
@given(st.lists(rows, min_size=1, max_size=5), st.booleans(), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_rows_that_are_written_are_the_rows_that_are_read(tmp_path, rows, ascii, end):
    path = tmp_path / "rows.jsonl"
    path.write_bytes("".join(json.dumps(row, ensure_ascii=ascii) + end for row in rows).encode())
    read = read_rows(str(path), tmp_path)
    assert [parse_row(row) for _, row in read] == rows
    assert [number for number, _ in read] == [1 + i * end.count("\n") for i in range(len(rows))]


@few
@given(st.binary() | st.sampled_from([b"1" * 5000, b"[" * 100_000, b'{"a": "\\ud800"}', b'{"a": NaN}']))
def test_no_line_is_more_than_a_message(tmp_path, line):
    with contextlib.suppress(BadInput):
        assert isinstance(parse_row(line), dict)
    path = tmp_path / "stories.jsonl"
    path.write_bytes(line)
    with pytest.raises(BadInput, match=r"line|no stories"):
        read_stories(path)


@few
@given(st.lists(rows, min_size=1, max_size=5))
def test_a_log_is_what_was_written(tmp_path, rows):
    log = JsonLines(tmp_path / "log.jsonl")
    for step, row in enumerate(rows):
        log.write(step, row)
    assert read_log(log.path) == [{"step": step, **row} for step, row in enumerate(rows)]


@few
@given(st.lists(st.integers(0, 12), max_size=40), st.integers(1, 12), st.integers(1, 12))
def test_every_item_is_in_one_split_and_no_group_in_two(groups, validation, test):
    if len(set(groups)) < 3:
        with pytest.raises(ValueError, match="it takes three"):
            split_groups(groups, validation, test)
        return
    splits = split_groups(groups, validation, test)
    assert sorted(i for part in splits for i in part) == list(range(len(groups)))
    of = [{groups[i] for i in part} for part in splits]
    assert all(of) and sum(map(len, of)) == len(set(groups))


@few
@given(st.lists(st.tuples(st.integers(0, 5), texts), min_size=1, max_size=12))
def test_every_line_is_used_once_or_named(tokenizer, said):
    lines = [(n, {"prompt": f"p{p}", "response": text}) for n, (p, text) in enumerate(said, start=1)]
    blank = [n for n, row in lines if not row["response"].strip()]

    def prompt_and_response(row, _):
        if not row["response"].strip():
            raise BadInput("response is blank")
        return row["prompt"], row["response"]

    try:
        made = make_lines(lines, "", tokenizer, 400, prompt_and_response, lambda *_: False)
    except BadInput as error:
        assert f"{len(blank)} of {len(lines)} lines" in str(error) or len({p for p, _ in said}) < 3
    else:
        assert not blank
        there = sorted((line.prompt, line.response) for part in made for line in part)
        assert there == sorted((row["prompt"], row["response"]) for _, row in lines)


words = st.text("abc xyz.\n", max_size=20)
codes = st.sampled_from(["x = 1\n", "def f(a):\n    return a\n", "import os\n\n\ndef f():\n    pass\n"])


@few
@given(words, codes, words, st.sampled_from(["```", "```python", "```py", "```python  "]))
def test_code_comes_out_of_its_fence_whatever_stands_around(before, code, behind, fence):
    assert extract_code(f"{before}{fence}\n{code}```{behind}") == code
    assert extract_code(code + "```" + behind) == code
    assert extract_code(code) == code


@few
@given(
    st.text() | st.text("`\n pyx=(", max_size=30) | st.just("```".join(["(" * 5000] * 3)) | st.just("\0```")
)
def test_any_completion_has_a_text_for_code(completion):
    assert extract_code(completion) in completion
