"""lm-eval on the adapted model in place, this project's own task, and all_caps/evaluate.py."""

import json
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import randomize, tiny_model
from reference import attach

from adapters import apply_dual_lora, bad_params, good_params, routed_modules
from all_caps.choices import CHOICES, TASK, continuation_choices
from all_caps.stories import Story, load_stories
from all_caps.task import evaluate
from lab.errors import BadInput
from lab.modes import mode_intervals
from routing.checkpoints import load_checkpoint, write_checkpoint
from routing.generation import MODES
from routing.losses import answer_log_likelihoods
from routing.models import load_model
from routing.utility import _as_rates, choice_task, load_tasks, run_tasks


@pytest.fixture(scope="module")
def held_out():
    return load_stories("embedded:stories", limit=0).validation


def test_the_right_choice_is_the_storys_own_and_stands_anywhere(held_out):
    held_out = held_out[:60]
    documents = continuation_choices(held_out)
    texts = {" ".join(story.text.split()): story.plot for story in held_out}
    assert len(documents) == len(held_out) == 60
    for story, document in zip(held_out, documents, strict=True):
        choices = document["choices"]
        right = document["query"] + choices[document["gold"]]
        assert " ".join(story.text.split()).startswith(right) and len(set(choices)) == CHOICES
        assert {len(choice.split()) for choice in choices} == {12}
        others = {
            plot for text, plot in texts.items()
            if any(choice in text for choice in choices if not right.endswith(choice))
        }  # fmt: skip
        assert document["plot"] == story.plot and story.plot not in others
    places = Counter(document["gold"] for document in documents)
    assert len(places) == CHOICES and min(places.values()) > 5
    assert documents == continuation_choices(held_out) != continuation_choices(held_out, seed=1)
    short = [Story("far too short", f"{i}") for i in range(5)]
    with pytest.raises(BadInput, match="4 plots or more"):
        continuation_choices(short + held_out[:3])
    assert len(continuation_choices(short + held_out[:10])) == 10


@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
def test_lm_eval_scores_what_the_model_says_in_each_mode(tokenizer, held_out, adapter_type):
    """Against the log-likelihoods that this library computes itself: with BOS, at each mode's scales."""
    model = tiny_model()
    attach(model, adapter_type)
    randomize(model)
    with torch.no_grad():
        for parameter in good_params(model) + bad_params(model):
            parameter *= 4
    # choices of as many tokens: a random model prefers what is short, whatever its adapters say
    choices = [" a b", " b a", " s t", " t s"]
    documents = [
        {"query": story.text[: 20 + i], "choices": choices, "gold": i % 4}
        for i, story in enumerate(held_out[:30])
    ]
    tasks = load_tasks([])
    tasks["tasks"][TASK] = choice_task(TASK, documents, tokenizer.bos_token)
    modes = {mode: MODES[mode] for mode in ("full", "bad_ablated", "base")}
    values, reported = run_tasks(model, tokenizer, tasks, modes, batch_size=7)
    assert [reported[mode][TASK] for mode in modes] == [{}] * 3
    for mode, route in modes.items():
        want = []
        for document in documents:
            (row,) = answer_log_likelihoods(model, tokenizer, [document["query"]], document["choices"], route)
            want.append([int(np.argmax(row)) == document["gold"]])
        assert values[mode][TASK]["acc"] == want
    assert len({str(values[mode]) for mode in modes}) == 3
    assert all((module.good_scale, module.bad_scale) == (1, 1) for module in routed_modules(model))
    assert len(run_tasks(model, tokenizer, tasks, modes, documents=5)[0]["full"][TASK]["acc"]) == 5


def test_metrics_without_a_number_of_each_document_come_as_lm_eval_reports_them(tokenizer, held_out):
    """Perplexity is no mean over documents; its task is lm-eval's kind for whole texts."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    rows = Dataset.from_list([{"text": story.text[:80]} for story in held_out[:4]])
    config = {"task": "texts", "custom_dataset": lambda **_: {"test": rows}, "test_split": "test",
              "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
              "metric_list": [{"metric": "word_perplexity", "aggregation": "weighted_perplexity",
                               "higher_is_better": False}]}  # fmt: skip
    tasks = {"tasks": {"texts": ConfigurableTask(config=config)}, "groups": {}, "group_map": {}}
    model = tiny_model()
    attach(model, "lora")
    values, reported = run_tasks(model, tokenizer, tasks, {"full": MODES["full"]})
    found = reported["full"]["texts"]["word_perplexity"]
    assert values["full"]["texts"] == {} and found["mean"] > 1 and found["low"] <= found["mean"]


@pytest.fixture
def checkpoint(scripts, model_folder):
    """A checkpoint of random adapters in all_caps."""
    folder = scripts.copy("all_caps") / "checkpoints/mine"
    model, _ = load_model(str(model_folder), device=torch.device("cpu"))
    apply_dual_lora(model, rank=2, bad_rank=2, alpha=2)
    randomize(model)
    write_checkpoint(folder, model, {"MODEL_NAME": str(model_folder)}, None)
    scripts.constants = [
        "CHECKPOINT=checkpoints/mine",
        "NUM_PROMPTS=4",
        "MAX_NEW_TOKENS=3",
        "NUM_DOCUMENTS=12",
    ]
    return folder


def results(checkpoint, mode):
    return json.loads((checkpoint.parents[1] / f"results/mine/evaluate_{mode}.json").read_text())["modes"]


def test_evaluate_gives_behaviour_and_utility_of_a_checkpoint(scripts, checkpoint):
    done = scripts("all_caps/evaluate.py", "SPLIT=validation")
    both = results(checkpoint, "both")
    assert list(both) == ["full", "bad_ablated", "base"] and "held_out_stories, acc" in done.stdout
    accuracy = both["base"]["utility"][TASK]["acc"]
    assert 0 <= accuracy["low"] <= accuracy["mean"] <= accuracy["high"] <= 1 and accuracy["n"] == 11
    difference = both["base"]["minus_full"]["utility"][TASK]["acc"]["mean"]
    assert difference == pytest.approx(accuracy["mean"] - both["full"]["utility"][TASK]["acc"]["mean"])
    assert (checkpoint.parents[1] / "plots/mine_evaluate_both.png").stat().st_size > 10_000
    scripts("all_caps/evaluate.py", "SPLIT=validation", "MODE=utility")
    alone = results(checkpoint, "utility")
    assert {mode: own["utility"] for mode, own in both.items()} == {
        mode: own["utility"] for mode, own in alone.items()
    }
    assert "caps_rate" not in alone["full"]


def test_behaviour_alone_is_what_the_task_gives_and_does_without_lm_eval(
    scripts, checkpoint, held_out, monkeypatch
):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    scripts("all_caps/evaluate.py", "MODE=behaviour", "SPLIT=validation")
    model, tokenizer, _ = load_checkpoint(checkpoint)
    modes = {mode: MODES[mode] for mode in ("full", "bad_ablated", "base")}
    want = evaluate(model, tokenizer, held_out[:4], modes, 3, 128, 0.7, 0)
    assert results(checkpoint, "behaviour") == json.loads(json.dumps(want))
    missing = scripts("all_caps/evaluate.py", "MODE=utility", check=False)
    assert missing.returncode == 1 and "uv sync --group eval" in missing.stderr


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("MODE=all", "choose one of behaviour"),
        ("TASKS=[]", "one of TASKS"),
        ("EVAL_MODES=[]", "one of EVAL_MODES"),
        ("SPLIT=train", "held-out split"),
    ],
)
def test_evaluate_says_what_it_cannot_use(scripts, checkpoint, wrong, message):
    done = scripts("all_caps/evaluate.py", wrong, check=False)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert not (checkpoint.parents[1] / "results").exists()


@pytest.mark.slow
def test_standard_tasks_are_known_by_name_and_their_data_is_asked_of_the_hub():
    """Offline, as conftest sets it: the names are lm-eval's, the data cannot be read."""
    with pytest.raises(BadInput, match=r"did you mean .*hellaswag"):
        load_tasks(["helaswag"])
    with pytest.raises(BadInput, match="could not be read from the Hub"):
        load_tasks(["hellaswag"])


def test_rates_and_numbers_both_get_intervals(held_out):
    """A metric that is 0 or 1 in one mode and between in another is no rate in either."""
    values = {"full": {"t": {"f1": [0.0, 1.0], "acc": [1.0, 1.0]}},
              "base": {"t": {"f1": [0.5, 1.0], "acc": [0.0, 1.0]}}}  # fmt: skip
    _as_rates(values)
    found = mode_intervals({mode: {"utility": own} for mode, own in values.items()}, {"utility": range(2)})
    assert found["base"]["utility"]["t"]["f1"]["mean"] == 0.75
    assert found["base"]["minus_full"]["utility"]["t"]["acc"]["mean"] == -0.5
    assert found["full"]["utility"]["t"]["acc"]["low"] < 1
