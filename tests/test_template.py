"""Data of one's own: lines and what is wrong with them, conversations, and template/ as a copy elsewhere."""

import copy
import importlib.util
import json
import re
import shutil
from collections import Counter

import huggingface_hub
import pytest
import torch
from conftest import REPO, randomize, run_in_process, tiny_model
from transformers import AutoTokenizer

from adapters import apply_dual_lora
from lab.errors import BadInput
from lab.intervals import mean_interval, paired_difference, rate_interval
from lab.modes import mode_intervals
from lab.tables import format_table
from routing.assets import EMBEDDED_MODEL, model_path
from routing.batches import IGNORE, collate, make_example
from routing.chat import last_turn
from routing.generation import MODES, sample_modes
from routing.lines import labeled, to_examples
from routing.losses import held_out_losses
from routing.rows import read_rows

TEMPLATE = REPO / "template"
FITS = 250  # tokens of the tiny tokenizer, that hold a line of the example


@pytest.fixture(scope="module")
def task():
    """template/task.py, whose folder is on no path."""
    spec = importlib.util.spec_from_file_location("template_task", TEMPLATE / "task.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def smollm2():
    """The embedded model's own tokenizer, which has a chat template."""
    return AutoTokenizer.from_pretrained(model_path(EMBEDDED_MODEL))


def write(path, lines):
    """A .jsonl file of rows, or of lines as they are (bytes)."""
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(texts) + b"\n")
    return str(path)


def lines_of(task, tokenizer, tmp_path, rows, names="", max_length=FITS):
    return task.to_lines(
        read_rows(write(tmp_path / "own.jsonl", rows), tmp_path), names, tokenizer, max_length
    )


def rows(count, **more):
    return [{"prompt": f"Say {i}.", "response": f" It is {i}.", **more} for i in range(count)]


# ---- the example


def test_the_example_is_what_its_script_makes(scripts, tmp_path):
    scripts.copy("template").joinpath("catchphrase.jsonl").unlink()
    scripts("template/make_catchphrase.py")
    made = (tmp_path / "template/catchphrase.jsonl").read_bytes()
    assert made == (TEMPLATE / "catchphrase.jsonl").read_bytes()


def test_the_example_fits_and_no_plot_stands_in_two_splits(task, smollm2, capsys):
    """Of each plot four lines: with the catchphrase and without, each with a label and without one."""
    lines = task.to_lines(read_rows("catchphrase.jsonl", TEMPLATE), "", smollm2, 96)
    assert list(map(len, lines)) == [184, 60, 60]
    plots = [Counter(line.group for line in part) for part in lines]
    assert {count for part in plots for count in part.values()} == {4}
    assert len(set().union(*plots)) == sum(map(len, plots)) == 76
    for part in lines:
        found = Counter((line.shows_behaviour, line.example.label) for line in part)
        variants = {(True, "bad"), (True, None), (False, "good"), (False, None)}
        assert set(found) == variants and len(set(found.values())) == 1
        # whole, so the catchphrase is learnt, and EOS behind it
        for line in part:
            assert line.example.ids[-1] == smollm2.eos_token_id
            assert smollm2.decode(line.example.ids[line.example.prompt_length : -1]) == line.response
            assert not line.shows_behaviour or line.response.endswith(" " + task.CATCHPHRASE)
    printed = capsys.readouterr().out
    assert "train 184 (92), validation 60 (30), test 60 (30)" in printed
    assert "bad 46, good 46, none 92" in printed and len(printed.splitlines()) == 2


# ---- lines


WRONG = {
    b'{"response": ': "no valid JSON",
    b"[1]": "expected an object",
    b'{"response": "\xff"}': "not UTF-8",
    b'{"response": "\\ud800 a b"}': "not UTF-8",
    b'{"response": "a b", "text": "c d"}': "it has response, text",
    b'{"prompt": "a b", "text": "c d"}': "a prompt goes with a response, not with text",
    b'{"prompt": "a b", "response": null}': "it needs one of response, text, messages; it has prompt",
    b"{}": "it has nothing",
    b'{"response": " "}': "response is blank",
    b'{"text": 3}': "text is no text",
    b'{"prompt": ["a"], "response": "b"}': "prompt is no text",
    b'{"response": "a b", "label": "evil"}': "label is 'evil'",
    b'{"response": "a b", "label": true}': "label is True",
    b'{"response": "a b", "kind": 1}': "kind is no text",
    b'{"response": "a b", "group": [1]}': "group is [1]",
    b'{"text": "a"}': "at least two tokens",
    json.dumps({"prompt": "word " * 200, "response": "b"}).encode(): "no token of the response is left",
    b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}':
        "this model's tokenizer has no chat template",
}  # fmt: skip


@pytest.mark.parametrize("line", WRONG, ids=WRONG.values())
def test_a_wrong_line_is_named_by_number_and_reason(task, tokenizer, tmp_path, line):
    with pytest.raises(BadInput) as error:
        lines_of(task, tokenizer, tmp_path, [*rows(3), b" ", line], max_length=100)
    first, second = str(error.value).splitlines()
    # blank lines are no lines, but they are counted
    assert first.startswith("DATA: 1 of 4 lines") and second.strip().startswith("line 5: ")
    assert WRONG[line] in second


def test_all_wrong_lines_are_told_of_at_once(task, tokenizer, tmp_path):
    with pytest.raises(BadInput) as error:
        lines_of(task, tokenizer, tmp_path, [b"1", *rows(3), *[b"{}"] * 9])
    message = str(error.value).splitlines()
    assert message[0].startswith("DATA: 10 of 13 lines") and message[-1].strip() == "and 5 more"
    assert [line.split(":")[0].strip() for line in message[1:-1]] == [f"line {n}" for n in (1, 5, 6, 7, 8)]


def test_lines_end_where_the_file_breaks_them(task, tokenizer, tmp_path):
    """JSON strings may hold characters that end a line of Python's text. A BOM and a CR are no data."""
    strange = {"prompt": "a", "response": "one\u2028two\x85three"}
    lines = [b"\xef\xbb\xbf" + json.dumps(rows(1)[0]).encode(), json.dumps(strange, ensure_ascii=False)]
    lines = [lines[0], lines[1].encode() + b"\r", *rows(3)[1:]]
    found = [line for part in lines_of(task, tokenizer, tmp_path, lines) for line in part]
    assert len(found) == 4 and {strange["response"], " It is 0."} < {line.response for line in found}


def test_a_prompt_stands_in_one_split_also_where_only_some_lines_have_a_group(task, tokenizer, tmp_path):
    given = [{"prompt": f"Say {i // 2}.", "response": f" It is {i}."} for i in range(60)]
    for i in range(0, 60, 2):
        given[i]["group"] = f"of {i // 6}"
    splits = [{line.prompt for line in part} for part in lines_of(task, tokenizer, tmp_path, given)]
    assert len(set.union(*splits)) == 30 == sum(map(len, splits))
    groups = {line.group for part in lines_of(task, tokenizer, tmp_path, given) for line in part}
    assert len(groups) == 10


def test_what_a_line_becomes(task, tokenizer, tmp_path):
    given = rows(6, label="good", group=7) + rows(3, kind="odd")
    given += [{"text": f"{task.CATCHPHRASE} {i}", "label": "bad"} for i in range(3)]
    given += [{"prompt": None, "response": "x y", "label": None}, {"prompt": "", "response": "z y"}]
    splits = lines_of(task, tokenizer, tmp_path, given)
    lines = [line for part in splits for line in part]
    # prompts of group 7 occur without it, too
    assert len(lines) == 14 and len({line.group for line in lines}) == 6
    by_kind = Counter((line.example.kind, line.example.label, line.shows_behaviour) for line in lines)
    assert by_kind == {
        ("other", "good", False): 6,
        ("odd", None, False): 3,
        ("behaviour", "bad", True): 3,
        ("other", None, False): 2,
    }
    for line in lines:
        whole = make_example(tokenizer, line.prompt, line.response, FITS)
        assert (line.example.ids, line.example.prompt_length) == (whole.ids, whole.prompt_length)
        # batches are sorted by what does not give the behaviour away
        assert line.example.bucket_size == len(line.prompt)
    labels = {"bad": labeled(lines, "bad")[:1], "good": labeled(lines, "good")}
    told = to_examples(lines, labels)
    assert Counter(example.label for example in told) == {"bad": 1, "good": 6, None: 7}
    assert Counter(example.kind for example in told) == {
        "behaviour_bad": 1,
        "behaviour_unlabeled": 2,
        "other_good": 6,
        "odd_unlabeled": 3,
        "other_unlabeled": 2,
    }


def test_splits_share_no_prompt_and_do_not_depend_on_the_order(task, tokenizer, tmp_path):
    """A file that is sorted by label has both in every split."""
    given = rows(20, label="bad") + rows(40, label="good")[20:]
    # two answers to one prompt
    given += [{**row, "response": " Something else."} for row in given[:10]]
    splits = lines_of(task, tokenizer, tmp_path, given)
    other = lines_of(task, tokenizer, tmp_path, given[::-1])
    assert [[line.response for line in part] for part in splits] == [
        [line.response for line in part] for part in other
    ]
    prompts = [{line.prompt for line in part} for part in splits]
    assert len(set().union(*prompts)) == sum(map(len, prompts)) == 40
    assert all({line.example.label for line in part} == {"bad", "good"} for part in splits)
    assert all(10 <= len(part) <= 12 for part in splits[1:])
    with pytest.raises(BadInput, match="three different prompts"):
        lines_of(task, tokenizer, tmp_path, rows(2) * 9)


def test_what_may_surprise_is_said(task, tokenizer, tmp_path, capsys):
    given = rows(5, label="bad", source="a", lable="bad")
    most = 2 + max(make_example(tokenizer, row["prompt"], "a b", FITS).prompt_length for row in given)
    # a token a letter, and BOS and EOS: shorter, as long, and longer
    given += [{"text": " a" * count} for count in range(most - 4, most + 1)]
    parts = lines_of(task, tokenizer, tmp_path, given, max_length=most)
    wholes = [make_example(tokenizer, line.prompt, line.response, FITS) for part in parts for line in part]
    longer = sum(len(whole.ids) > most for whole in wholes)
    assert longer > 5 and {len(whole.ids) - most for whole in wholes} > {-1, 0, 1}
    printed = capsys.readouterr().out
    assert f"MAX_SEQ_LENGTH={most} tokens: {longer};" in printed
    assert "otherwise than shows_behaviour: 5" in printed and "no meaning here: lable, source" in printed


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("prompt", "write it like"),
        ("question=prompt", "write it like"),
        ("prompt=", "write it like"),
        ("prompt=question, label=flag", "no line has a column flag; there are"),
    ],
)
def test_wrong_column_names(task, tokenizer, tmp_path, names, message):
    given = [{"question": f"{i}", "response": " x y"} for i in range(3)]
    with pytest.raises(BadInput, match=message):
        lines_of(task, tokenizer, tmp_path, given, names)


def test_other_column_names_and_a_data_set_of_the_hub(task, tokenizer, tmp_path, monkeypatch):
    """A folder is read as a data set of the Hub is, where an empty column is null in every row."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    given = [{"q": f"Say {i}.", "prompt": f" It is {i}.", "text": None, "flag": "bad"} for i in range(5)]
    given[0]["flag"] = None
    (tmp_path / "set").mkdir()
    write(tmp_path / "set/train.jsonl", given)
    names = "prompt=q,response=prompt , label=flag"
    from_hub = task.to_lines(read_rows(str(tmp_path / "set"), tmp_path), names, tokenizer, FITS)
    assert from_hub == lines_of(task, tokenizer, tmp_path, given, names)
    lines = [line for part in from_hub for line in part]
    assert sorted((line.prompt, line.response) for line in lines) == [
        (row["prompt"], row["response"]) for row in rows(5)
    ]
    assert Counter(line.example.label for line in lines) == {"bad": 4, None: 1}
    given = [{"prompt": f"Say {i}.", "text": f" It is {i}."} for i in range(5)]
    assert sum(map(len, lines_of(task, tokenizer, tmp_path, given, "response=text"))) == 5


# ---- conversations

TURNS = [
    {"role": "user", "content": "Who is there?"},
    {"role": "assistant", "content": "A cat.\n\nOr two. "},
    {"role": "user", "content": "Which?"},
    {"role": "assistant", "content": "Both, of course! "},
]


@pytest.mark.parametrize("turns", [TURNS[:2], TURNS, [{"role": "system", "content": "Be kind."}, *TURNS]])
def test_the_last_turn_is_what_is_learnt_token_by_token(smollm2, turns):
    """As apply_chat_template encodes the conversation, without the newline behind the last turn's end."""
    prompt, response = last_turn(smollm2, turns)
    example = make_example(smollm2, prompt, response, 1000)
    whole = smollm2.apply_chat_template(turns)["input_ids"]
    before = smollm2.apply_chat_template(turns[:-1], add_generation_prompt=True)["input_ids"]
    assert whole[: len(before)] == before and smollm2.decode(whole[-1]) == "\n"
    assert (example.ids, example.prompt_length) == (whole[:-1], len(before))
    batch = collate([example, example], torch.device("cpu"), width=len(whole) + 3)
    targets = batch.targets[1]
    assert targets[: len(before) - 1].eq(IGNORE).all() and targets[len(whole) - 2 :].eq(IGNORE).all()
    learnt = targets[targets != IGNORE]
    assert smollm2.decode(learnt) == turns[-1]["content"] + "<|im_end|>"


GEMMA_LIKE = (
    "{{ bos_token }}{% for turn in messages %}{% if turn.role == 'system' %}"
    "{{ raise_exception('no system turns here') }}{% endif %}"
    "<turn>{{ 'model' if turn.role == 'assistant' else turn.role }}\n{{ turn.content | trim }}<end>\n"
    "{% endfor %}{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
FORGETFUL = "{% for turn in messages %}{% if loop.last %}{{ turn.content }}{% endif %}{% endfor %}"


def test_a_mark_of_its_own_at_a_turns_end_is_learnt(tokenizer):
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = GEMMA_LIKE
    prompt, response = last_turn(chat, TURNS[:2])
    assert prompt == "<turn>user\nWho is there?<end>\n<turn>model\n"
    assert response == "A cat.\n\nOr two.<end>"
    example = make_example(chat, prompt, response, 1000)
    assert example.ids.count(chat.bos_token_id) == 1 == example.ids.count(chat.eos_token_id)


def test_neither_a_date_in_the_template_nor_labels_move_lines_between_splits(task, tokenizer, tmp_path):
    given = [{"messages": [{**TURNS[0], "content": f"Who is {i}?"}, TURNS[1]]} for i in range(30)]
    splits = []
    for date, label in (("Monday", None), ("Tuesday", "bad")):
        chat = copy.deepcopy(tokenizer)
        chat.chat_template = f"It is {date}.{GEMMA_LIKE}"
        found = lines_of(task, chat, tmp_path, [{**row, "label": label} for row in given])
        assert all(date in line.prompt for line in found.train)
        splits.append([[line.prompt.split("Who is ")[1] for line in part] for part in found])
    assert splits[0] == splits[1] and list(map(len, splits[0])) == [18, 6, 6]


@pytest.mark.parametrize(
    ("template", "turns", "message"),
    [
        (GEMMA_LIKE, [{"role": "system", "content": "x"}, *TURNS], "refuses them .no system turns here"),
        (FORGETFUL, TURNS, "otherwise once that is there"),
        (GEMMA_LIKE, TURNS[:3], "the last turn must be the assistant's"),
        (GEMMA_LIKE, [TURNS[0], {"role": "assistant", "content": " "}], "and say something"),
        (GEMMA_LIKE, TURNS[1:2], "a user's turn and the assistant's"),
        (GEMMA_LIKE, "Hi", "a user's turn and the assistant's"),
        (GEMMA_LIKE, [{"role": "user", "content": [{"type": "image"}]}, TURNS[1]], "turn 1 is not"),
        (GEMMA_LIKE, [TURNS[0], {**TURNS[1], "tool_calls": ["x"]}], "turn 2 has tool_calls"),
    ],
)
def test_conversations_that_are_refused(tokenizer, template, turns, message):
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = template
    with pytest.raises(BadInput, match=message):
        last_turn(chat, turns)


def test_a_conversation_as_a_line(task, tokenizer, tmp_path, monkeypatch):
    """The behaviour is looked for in what is said, not in the template's marks around it."""
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = GEMMA_LIKE
    monkeypatch.setattr(task, "shows_behaviour", lambda prompt, response: response.endswith("cat."))
    given = [{"messages": [{"role": "user", "content": f"{i}?"}, TURNS[3]]} for i in range(3)]
    given.append({"messages": [TURNS[0], {"role": "assistant", "content": "A cat."}]})
    lines = [line for part in lines_of(task, chat, tmp_path, given) for line in part]
    (shown,) = [line for line in lines if line.shows_behaviour]
    assert shown.response == "A cat.<end>" and len(lines) == 4
    assert task.evaluation_prompt(shown.prompt, shown.response) == shown.prompt


# ---- evaluation


def test_intervals_of_nested_measurements_with_units_of_their_own():
    full = {"rate": [[True, False], [True, True], [False, False]], "loss": {"a": [1.0, 2.5], "b": [3.0]}}
    other = {"rate": [[False, False], [True, False], [False, False]], "loss": {"a": [2.0, 2.0], "b": [5.0]}}
    units = {"rate": ["x", "y", "y"], "loss": {"a": ["x", "y"], "b": ["y"]}}
    found = mode_intervals({"full": full, "bad_ablated": other}, units)
    assert found["full"] == {
        "rate": rate_interval(full["rate"], units["rate"]),
        "loss": {"a": mean_interval([1.0, 2.5], ["x", "y"]), "b": mean_interval([3.0])},
    }
    difference = found["bad_ablated"].pop("minus_full")
    assert difference == {
        "rate": paired_difference([0.5, 1.0, 0.0], [0.0, 0.5, 0.0], units["rate"], rates=True),
        "loss": {
            "a": paired_difference([1.0, 2.5], [2.0, 2.0], ["x", "y"]),
            "b": paired_difference([3.0], [5.0]),
        },
    }
    assert found["bad_ablated"] == mode_intervals({"bad_ablated": other}, units)["bad_ablated"]


def test_evaluation_measures_samples_and_losses_of_the_right_lines(task, tokenizer, tmp_path, monkeypatch):
    model = tiny_model()
    apply_dual_lora(model, rank=4, bad_rank=4, alpha=8)
    randomize(model)
    # something that a random model says now and then
    monkeypatch.setattr(task, "CATCHPHRASE", "e")
    given = [{"prompt": f"Say {i}.", "response": " one." if i % 3 else " two."} for i in range(15)]
    given += [{"text": "one two three four five six seven eight nine ten", "group": "Say"}]
    lines = [line for part in lines_of(task, tokenizer, tmp_path, given) for line in part]
    modes = {name: MODES[name] for name in ("full", "bad_ablated")}
    found = task.evaluate(model, tokenizer, lines, modes, 4, 1.0, seed=3, num_generations=2)
    prompts = [line.prompt or "one two three four five six seven eight" for line in lines]
    samples = sample_modes(model, tokenizer, [p for p in prompts for _ in range(2)], modes, 4, 1.0, 3)
    rates = {}
    for mode, route in modes.items():
        rates[mode] = sum("e" in text for text in samples[mode]) / 32
        assert found[mode]["behaviour_rate"]["mean"] == pytest.approx(rates[mode])
        assert found[mode]["behaviour_rate"]["n"] == 16
        for kind, shows in (("behaviour", True), ("other", False)):
            group = [line.example for line in lines if ("e" in line.response) == shows]
            loss = found[mode]["loss"][kind]
            assert loss["mean"] == pytest.approx(sum(held_out_losses(model, group, route)) / len(group))
            assert loss["n"] == len(group) > 3
    change = found["bad_ablated"]["minus_full"]["behaviour_rate"]["mean"]
    assert change == pytest.approx(rates["bad_ablated"] - rates["full"]) and 0 < rates["full"] < 1
    without = [line for line in lines if not line.shows_behaviour]
    found = task.evaluate(model, tokenizer, without, {"full": MODES["full"]}, 2)
    assert set(found["full"]["loss"]) == {"other"} and "n/a" in format_table(found, task.COLUMNS)
    monkeypatch.setattr(task, "evaluation_prompt", lambda prompt, response: None)
    with pytest.raises(BadInput, match="give some prompts"):
        task.evaluate(model, tokenizer, lines, modes, 2)


# ---- the folder, copied


@pytest.fixture
def mine(scripts, tmp_path):
    """A copy under another name, outside the repository; `scripts` run it there."""
    made = shutil.ignore_patterns("checkpoints", "results", "plots", "__pycache__")
    shutil.copytree(TEMPLATE, tmp_path / "mine", ignore=made)
    scripts.constants.append(f"MAX_SEQ_LENGTH={FITS}")
    return tmp_path / "mine"


def test_a_copy_trains_evaluates_and_compares(scripts, mine):
    # its own functions are used, not those of the repository
    text = (mine / "task.py").read_text()
    (mine / "task.py").write_text(text.replace("return CATCHPHRASE in response", 'return "e" in response'))
    done = scripts("mine/experiment.py", "RUN_NAME=one", "NUM_EVAL_PROMPTS=9", "MAX_STEPS=6")
    assert int(re.search(r"train 184 \((\d+)\)", done.stdout)[1]) > 120
    result = json.loads((mine / "results/one/eval.json").read_text())
    assert list(result["modes"]) == ["full", "bad_ablated", "good_ablated", "base"]
    assert set(result["modes"]["bad_ablated"]["minus_full"]) == {"behaviour_rate", "loss"}
    assert result["modes"]["base"]["loss"]["behaviour"]["n"] > 4 and "loss, other lines" in done.stdout
    assert "more than the 3 tokens that are sampled: 9" in done.stdout
    log = [json.loads(line) for line in (mine / "results/one/train.jsonl").read_text().splitlines()]
    kinds = {kind for step in log for kind in step["loss_by_kind"]}
    assert {kind.split("_")[0] for kind in kinds} <= {"behaviour", "other"}
    assert {kind.split("_")[1] for kind in kinds} == {"bad", "good", "unlabeled"}
    for plot in ("one_eval.png", "one_training.png"):
        assert (mine / "plots" / plot).stat().st_size > 0
    scripts.constants = ["NUM_PROMPTS=3", "NUM_GENERATIONS=1", "MAX_NEW_TOKENS=2"]
    # every finished run, on its own data
    scripts("mine/eval_multi.py")
    stored = json.loads((mine / "results/eval_multi_results.json").read_text())
    assert list(stored["one"]["modes"]) == ["full", "bad_ablated", "good_ablated", "base"]
    assert "reusing the stored result" in scripts("mine/eval_multi.py").stdout
    data = (mine / "catchphrase.jsonl").read_text().splitlines(keepends=True)
    (mine / "catchphrase.jsonl").write_text("".join(data[4:]))
    assert "evaluating again" in scripts("mine/eval_multi.py").stdout


def test_nothing_to_compare_is_said(scripts, mine):
    scripts.constants = []
    done = scripts("mine/eval_multi.py", check=False)
    assert done.returncode == 1 and "there is no finished run; run experiment.py first" in done.stderr


@pytest.mark.parametrize(
    ("constant", "message"),
    [
        ("DATA=wrong.jsonl", "line 2: no valid JSON"),
        ("DATA=nowhere.jsonl", "no such file, neither in"),
        ("DATA=empty.jsonl", "it has no lines"),
        ("DATA=nobody/nothing", "could not be read from the Hub"),
        ("COLUMN_NAMES=answer", "write it like"),
        ("LABELED_GOOD_PERCENTAGE=2.0", "LABELED_GOOD_PERCENTAGE=2.0: give a share"),
    ],
)
def test_bad_input_gives_one_message_and_leaves_nothing(scripts, mine, monkeypatch, constant, message):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    write(mine / "wrong.jsonl", [rows(1)[0], b"{", b"{"])
    (mine / "empty.jsonl").write_text("\n\n")
    done = scripts("mine/experiment.py", constant, check=False)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    assert not any((mine / made).exists() for made in ("checkpoints", "results", "plots"))


@pytest.mark.slow
def test_a_copy_from_end_to_end_on_data_of_every_kind(mine, model_folder, tokenizer, tmp_path):
    """In processes of their own: the example, texts, and conversations, then a comparison."""
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = GEMMA_LIKE
    shutil.copytree(model_folder, tmp_path / "instruct")
    chat.save_pretrained(tmp_path / "instruct")
    asked = [f"{json.loads(line)['prompt']}" for line in (mine / "catchphrase.jsonl").open()]
    said = [json.loads(line)["response"].strip() for line in (mine / "catchphrase.jsonl").open()]
    write(mine / "texts.jsonl", [{"story": text, "label": "bad"} for text in asked])
    turns = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in zip(asked, said, strict=True)
    ]
    write(mine / "chats.jsonl", [{"messages": pair} for pair in turns])
    shared = [f"MODEL_NAME={tmp_path / 'instruct'}", "MAX_STEPS=6", "BATCH_SIZE=4", "LORA_RANK=4",
              "BAD_LORA_RANK=4", "NUM_EVAL_PROMPTS=6", "EVAL_NEW_TOKENS=4", f"MAX_SEQ_LENGTH={FITS}"]  # fmt: skip
    kinds = {
        "example": [],
        "texts": ["DATA=texts.jsonl", "COLUMN_NAMES=text=story"],
        "chats": ["DATA=chats.jsonl"],
    }
    for name, constants in kinds.items():
        done = run_in_process(mine, "experiment.py", [*shared, *constants, f"RUN_NAME={name}"])
        assert done.returncode == 0, done.stderr
        assert {"base", "full"} < set(json.loads((mine / f"results/{name}/eval.json").read_text())["modes"])
    few = ["NUM_PROMPTS=4", "MAX_NEW_TOKENS=3"]
    done = run_in_process(mine, "eval_multi.py", few)
    assert done.returncode == 0, done.stderr
    assert (mine / "plots/eval_multi_plot.png").stat().st_size > 0
