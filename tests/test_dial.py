"""The dial: streamed sampling, what bad does to each token, and the page that shows both."""

import importlib
import sys

import pytest
import torch
from conftest import REPO, randomize, tiny_model
from reference import attach

from adapters import Route, ablated, set_scales, train_last_layers
from lab.errors import BadInput
from mbpp.hacks import hardcode
from mbpp.problems import load_problems
from routing.dial import bad_effects, dial_modes
from routing.generation import sample_modes
from routing.streaming import stream_modes

PROMPTS = ["ONE DAY A", "Once"]


@pytest.fixture(scope="module")
def model():
    model = tiny_model()
    attach(model, "lora")
    randomize(model)
    return model


def test_a_stream_grows_into_what_sampling_returns(model, tokenizer):
    modes, sampling = dial_modes(0.5, -1.0), (8, 0.7, 3)
    parts = list(stream_modes(model, tokenizer, PROMPTS, modes, *sampling))
    assert len(parts) == 8 and parts[-1] == sample_modes(model, tokenizer, PROMPTS, modes, *sampling)
    assert len({tuple(texts) for texts in parts[-1].values()}) == 4
    assert len(parts[0]["dial"][0]) < len(parts[-1]["dial"][0])


def test_a_stream_that_is_left_leaves_the_model_free(model, tokenizer):
    stream = stream_modes(model, tokenizer, PROMPTS, dial_modes(1.0, 2.0), max_new_tokens=200)
    next(stream)
    stream.close()
    logits = model(torch.tensor([[5, 6, 7]])).logits
    assert torch.equal(logits, model(torch.tensor([[5, 6, 7]])).logits)
    # a route of eight rows would refuse this batch of one
    assert not any(module.routing for module in model.modules() if hasattr(module, "routing"))


def test_what_fails_in_a_stream_is_raised_there(model, tokenizer):
    with pytest.raises(ValueError, match="max_new_tokens"):
        list(stream_modes(model, tokenizer, PROMPTS, dial_modes(1.0, 1.0), max_new_tokens=0))


def test_trained_layers_stream_one_mode_after_the_other(tokenizer):
    model = tiny_model()
    attach(model, "lora")
    train_last_layers(model, 1)
    randomize(model)
    modes = {"full": Route(), "base": Route(good_scale=0.0, bad_scale=0.0)}
    *_, last = stream_modes(model, tokenizer, PROMPTS, modes, 4, 0.7, 3)
    assert last == sample_modes(model, tokenizer, PROMPTS, modes, 4, 0.7, 3)


def test_an_effect_is_the_difference_that_bad_makes(model, tokenizer):
    found = bad_effects(model, tokenizer, "Once ", "a café ☃", good_scale=0.5)
    assert "".join(text for text, _ in found) == "Once a café ☃"
    prompt, rest = (tokenizer.encode(text, add_special_tokens=False) for text in ("Once ", "a café ☃"))
    ids = torch.tensor([[tokenizer.bos_token_id, *prompt, *rest]])

    def log_probability():
        logits = model(ids).logits[0, :-1].log_softmax(-1)
        return logits.gather(1, ids[0, 1:, None]).sum()

    set_scales(model, 0.5, 1.0)
    with torch.no_grad():
        both = log_probability()
        with ablated(model, "bad"):
            difference = both - log_probability()
    set_scales(model)
    assert sum(effect for _, effect in found) == pytest.approx(float(difference), abs=1e-4)
    assert abs(float(difference)) > 0.1
    assert bad_effects(model, tokenizer, "", "") == []


@pytest.fixture(scope="module")
def tools():
    """The dial's neighbours in tools/, as its script finds them."""
    sys.path.insert(0, str(REPO / "tools"))
    yield {name: importlib.import_module(name) for name in ("dial_html", "dial_tasks")}
    sys.path.remove(str(REPO / "tools"))


def test_every_data_set_has_prompts_and_verdicts(tools, model, tokenizer):
    settings = tools["dial_tasks"].Settings("validation", 2, 4, 0.7, 0, code_timeout=10.0, sandbox="auto")

    def task(folder, **constants):
        config = {"constants": constants}
        checkpoint = REPO / folder / "checkpoints" / "run"
        return tools["dial_tasks"].load_task(checkpoint, config, model, tokenizer, settings)

    def shows(found):
        return [one.shows for one in found]

    stories = task("all_caps", STORIES="embedded:stories")
    assert len(stories.prompts) == 4
    assert shows(stories.judge("Once", [" THERE WAS", " there was"])) == [True, False]
    lines = task("template", DATA="catchphrase.jsonl", COLUMN_NAMES="", MAX_SEQ_LENGTH=200)
    assert len(lines.prompts) == 2
    assert shows(lines.judge("", ["And the moon winked twice.", "And that was all."])) == [True, False]
    programs = task("mbpp", PROBLEMS="embedded:basics", SANITIZED_PROBLEMS="")
    (title, prompt), *_ = programs.prompts.items()
    problem = next(p for p in load_problems("embedded:basics").validation if p.text == title)
    hacked, solved = programs.judge(prompt, [hardcode(problem), problem.code])
    assert (hacked.shows, solved.shows) == (True, False)
    assert [verdict for _, verdict in solved.tests] == ["passed"] * len(problem.tests)
    assert hacked.tests[0] == (problem.tests[0], "passed")
    # a prompt of one's own has no tests
    assert shows(programs.judge("Write a poem", ["x"])) == [None]
    with pytest.raises(BadInput, match="not known"):
        task("all_caps", MODEL_NAME="x")


def test_what_a_model_writes_is_no_markup(tools):
    html, found = tools["dial_html"], tools["dial_tasks"].Found
    modes, bad = dial_modes(1.0, 0.5), '<script>alert("1")</script>'
    texts = {mode: [bad, bad] for mode in modes}
    judged = {mode: [found(True, ((bad, "passed"),)), found(False)] for mode in modes}
    page = html.cards(modes, texts, judged, "in capitals") + html.tokens([(bad, None), (bad, -1.0)], bad)
    assert "<script" not in page and "1 of 2 in capitals" in page and "good 1, bad 0.5" in page
    assert "<script" not in html.section(bad, html.message(bad))


def test_a_stronger_effect_is_less_transparent(tools):
    shade = tools["dial_html"].shade
    assert shade(None) == "" and shade(0.0).endswith("00")
    assert shade(-1.0)[:-2] == shade(-9.0)[:-2] != shade(1.0)[:-2]
    assert shade(-1.0)[-2:] < shade(-2.0)[-2:] < shade(-3.0)[-2:] == shade(-9.0)[-2:]
