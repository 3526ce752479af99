"""Residual streams and directions in them, what a model answers, and the script that compares models."""

import json

import numpy as np
import pytest
import torch
from conftest import randomize, tiny_model
from reference import attach
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_score

from adapters import ablated, apply_dual_lora
from all_caps.perception import perception
from lab.errors import BadInput
from lab.intervals import auc_interval
from routing.activations import angle, last_token_activations, read_layer
from routing.checkpoints import load_checkpoint, write_checkpoint
from routing.generation import MODES
from routing.losses import answer_log_likelihoods
from routing.merging import load_run, merge_adapters
from routing.models import load_model

PROMPTS = ["Once", "THE OLD DOG RAN TO THE MARKET WITH", "The little dog went to", "A"]
FINAL_NORM = {"llama": "model.norm", "gpt2": "transformer.ln_f", "gemma3": "model.norm"}


def count_hooks(model) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("family", FINAL_NORM)
def test_streams_are_those_of_transformers_prompt_by_prompt_in_every_mode(tokenizer, family):
    model = tiny_model(family)
    attach(model, "lora")
    randomize(model)
    for mode, which in {"bad_ablated": "bad", "base": "both"}.items():
        hooks = count_hooks(model)
        got = last_token_activations(model, tokenizer, PROMPTS, MODES[mode], batch_size=3)
        assert count_hooks(model) == hooks
        assert got.shape == (5, len(PROMPTS), 32)
        for i, prompt in enumerate(PROMPTS):
            ids = [tokenizer.bos_token_id, *tokenizer.encode(prompt, add_special_tokens=False)]
            with ablated(model, which), torch.no_grad():
                want = model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False)
                normed = model.get_submodule(FINAL_NORM[family])(torch.tensor(got[-1, i]).float())
            want = torch.stack([hidden[0, -1] for hidden in want.hidden_states]).numpy()
            np.testing.assert_allclose(got[:-1, i], want[:-1], rtol=1e-4, atol=1e-5)
            # transformers gives the last layer's behind the final norm
            np.testing.assert_allclose(normed.numpy(), want[-1], rtol=1e-4, atol=1e-5)


def pairs(plots=12, each=4, d=150, seed=0):
    random = np.random.default_rng(seed)
    return random, random.normal(size=(plots * each, d)), [f"plot {i // each}" for i in range(plots * each)]


def test_a_planted_direction_is_found_and_chance_is_chance():
    random, plain, plots = pairs()
    planted = random.normal(size=plain.shape[1])
    planted *= 6 / np.linalg.norm(planted)
    shown = plain[random.permutation(len(plain))] + planted
    reading = read_layer(shown, plain, plots)
    assert np.mean(reading.told) > 0.95 and np.shape(reading.told) == (48, 2)
    assert 0.3 < np.mean(reading.shuffled) < 0.7 and len(reading.shuffled) == 5
    cosines = {
        name: abs(direction @ planted / np.linalg.norm(direction) / 6)
        for name, direction in reading.directions.items()
    }
    assert min(cosines.values()) > 0.7 and cosines["means"] > 0.9
    # 150 dimensions of variance 1 around means that are 6 apart
    assert reading.separation == pytest.approx(6 / 150**0.5, rel=0.15)
    assert reading.variance == sorted(reading.variance, reverse=True) and 0.03 < reading.variance[0] < 0.2
    nothing = read_layer(random.normal(size=plain.shape), plain, plots, shuffles=0)
    assert 0.3 < np.mean(nothing.told) < 0.7 and nothing.shuffled == []


def test_what_holds_of_single_plots_only_is_not_found():
    """Each plot has a direction of its own: a probe tested on plots that it has seen would be right."""
    random, plain, plots = pairs()
    own = {plot: 16 * random.normal(size=plain.shape[1]) / plain.shape[1] ** 0.5 for plot in plots}
    shown = plain + np.stack([own[plot] for plot in plots])
    order = random.permutation(2 * len(plain))
    pooled, labels = np.concatenate([shown, plain])[order], (np.arange(2 * len(plain)) < len(plain))[order]
    assert cross_val_score(LogisticRegression(), pooled, labels).mean() > 0.9
    assert np.mean(read_layer(shown, plain, plots, shuffles=0).told) < 0.7


def test_probes_need_two_plots():
    _, plain, _ = pairs()
    with pytest.raises(BadInput, match="two plots"):
        read_layer(plain + 1, plain, ["one"] * len(plain))


def test_angles():
    _, plain, plots = pairs(d=2)
    across, up = np.array([3, 0]), np.array([0, 3])
    a, b, turned = (read_layer(plain + by, plain, plots, shuffles=0) for by in (across, up, -across))
    assert angle("means", a, a) == pytest.approx(0, abs=1e-5)
    assert angle("means", a, b) == pytest.approx(90) and angle("means", a, turned) == pytest.approx(180)
    assert angle("probe", a, turned) > 150 and angle("pca", a, turned) < 30


def test_log_likelihoods_of_answers_by_hand(tokenizer):
    model = tiny_model("qwen3")
    attach(model, "mlp")
    randomize(model)
    answers = [" yes", " certainly not"]
    got = answer_log_likelihoods(model, tokenizer, PROMPTS, answers, MODES["bad_ablated"])
    assert len(tokenizer.encode(answers[1])) > 1
    for prompt, row in zip(PROMPTS, got, strict=True):
        for answer, found in zip(answers, row, strict=True):
            start, end = (tokenizer.encode(text, add_special_tokens=False) for text in (prompt, answer))
            ids = torch.tensor([[tokenizer.bos_token_id, *start, *end]])
            with ablated(model, "bad"), torch.no_grad():
                log_probs = model(input_ids=ids).logits[0].log_softmax(-1)
            want = sum(log_probs[len(start) + k, token] for k, token in enumerate(end))
            assert found == pytest.approx(want.item(), rel=1e-4)


def test_the_auc_is_scikit_learns_and_its_interval_holds_it():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        # the values of a prompt resemble one another, and those of a unit of four prompts
        shared = np.repeat(random.normal(size=15), 4) * 0.8 + random.normal(size=60) * 0.6
        higher, lower = (shared + mean + random.normal(size=60) * 0.75 for mean in (1, 0))
        found = auc_interval(higher, lower, [i // 4 for i in range(60)])
        # of two normals that are 1 apart, with a variance of 0.64 + 0.36 + 0.5625 each
        held += found["low"] <= norm.cdf(1 / 3.125**0.5) <= found["high"]
    labels = [1] * 60 + [0] * 60
    assert found["mean"] == pytest.approx(roc_auc_score(labels, [*higher, *lower])) and found["n"] == 15
    assert 0.92 <= held / 300 <= 1.0
    ties = auc_interval([1.0, 2.0, 2.0], [1.0, 1.0, 2.0])
    assert ties["mean"] == pytest.approx(roc_auc_score([1, 1, 1, 0, 0, 0], [1, 2, 2, 1, 1, 2]))
    perfect = auc_interval([5.0] * 20, [1.0] * 20)
    assert perfect["mean"] == perfect["high"] == 1 and 0.7 < perfect["low"] < 0.9


def test_a_model_that_always_says_yes_is_half_right_and_may_still_see_the_difference():
    plots = [f"{i // 2}" for i in range(12)]
    leaning = perception({"caps": [3.0 + i / 10 for i in range(12)], "normal": [1.0] * 12}, plots)
    assert leaning["accuracy"]["mean"] == 0.5 and leaning["auc"]["mean"] == 1.0
    assert leaning["log_odds"]["difference"]["mean"] == pytest.approx(2.55) and leaning["auc"]["n"] == 6
    blind = perception({"caps": [2.0] * 12, "normal": [2.0] * 12}, plots)
    assert blind["accuracy"]["mean"] == blind["auc"]["mean"] == 0.5


@pytest.fixture
def checkpoints(scripts, model_folder):
    """In all_caps: a checkpoint of random adapters, and one of a run that went on from a merged start."""
    folder = scripts.copy("all_caps") / "checkpoints"
    # in bf16, which "auto" takes on some CPUs, a merge rounds
    constants = {"MODEL_NAME": str(model_folder), "DTYPE": "float32"}
    model, _ = load_model(str(model_folder), "float32", device=torch.device("cpu"))
    apply_dual_lora(model, rank=2, bad_rank=2, alpha=2)
    randomize(model)
    for name in ("mine", "back/start"):
        write_checkpoint(folder / name, model, constants, None)
    merge_adapters(model)
    apply_dual_lora(model, rank=2, bad_rank=2, alpha=2)
    randomize(model, seed=2)
    write_checkpoint(folder / "back", model, constants, None, start="start")
    scripts.constants = []
    return folder


def test_a_run_is_loaded_with_its_start(checkpoints, tokenizer):
    def streams(model):
        return last_token_activations(model, tokenizer, PROMPTS[:1], MODES["full"])

    plain = streams(load_run(checkpoints / "mine")[0])
    np.testing.assert_array_equal(plain, streams(load_checkpoint(checkpoints / "mine")[0]))
    model, _, _ = load_run(checkpoints / "back")
    start = last_token_activations(model, tokenizer, PROMPTS[:1], MODES["base"])
    # the start is the other run, merged
    np.testing.assert_allclose(start, plain, rtol=1e-3, atol=1e-4)
    assert not np.allclose(streams(model), plain, atol=1e-2)


def test_the_script_compares_models_layer_by_layer(scripts, checkpoints):
    constants = ["CHECKPOINT=checkpoints/mine", "NUM_PROMPTS=3", "SHUFFLES=1"]
    done = scripts("all_caps/analyze_subspace.py", *constants, "RECOVERED=checkpoints/back")
    folder = checkpoints.parent
    result = json.loads((folder / "results/mine/subspace_back_full.json").read_text())
    names = ["base", "full", "bad_ablated", "recovered"]
    assert list(result["modes"]) == list(result["layers"]) == names
    assert all(f"\n{name} " in done.stdout for name in names)
    for mode in result["modes"].values():
        assert set(mode["perception"]) == {"accuracy", "auc", "log_odds"}
    assert all(len(own) == 5 for own in result["layers"].values())
    for direction, between in result["angles"].items():
        assert len(between) == 6, direction
        # only the last two of four layers have adapters
        assert max(between["base - full"][:3]) < 1e-3 and max(between["base - recovered"][:3]) < 1e-3
        assert min(between["base - full"][3:]) > 1
    plots = {path.name for path in (folder / "plots").iterdir()}
    assert plots == {"mine_subspace_back_full.png", "mine_subspace_back_full_modes.png"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("QUESTION=Is it?", '"{text}"'),
        ("RECOVERED_MODE=none", "choose one of full"),
        ("RECOVERED=checkpoints/nowhere", "no checkpoint here"),
        ("NUM_PROMPTS=1", "two plots"),
    ],
)
def test_the_script_says_what_it_cannot_use(scripts, checkpoints, wrong, message):
    done = scripts("all_caps/analyze_subspace.py", "CHECKPOINT=checkpoints/mine", wrong, check=False)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert not (checkpoints.parent / "results").exists()


def test_models_of_another_base_are_not_compared(scripts, checkpoints):
    config = checkpoints / "back/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model": "another"}))
    constants = ("CHECKPOINT=checkpoints/mine", "RECOVERED=checkpoints/back")
    done = scripts("all_caps/analyze_subspace.py", *constants, check=False)
    assert done.returncode == 1 and "another base" in done.stderr
