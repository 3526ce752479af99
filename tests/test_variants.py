"""What each training variant promises, and the comparison of runs: real scripts on a tiny model."""

import json
import shutil

import pytest
import torch
from conftest import tiny_model
from reference import attach, per_example_losses
from safetensors.torch import load_file

from adapters import (
    Route,
    TrainedLayer,
    ablated,
    apply_dual_lora,
    bad_params,
    good_params,
    routed,
    train_last_layers,
)
from lab.labels import pick
from routing.batches import Example, batch_order, collate
from routing.generation import MODES
from routing.losses import example_losses
from routing.optimizer import RoutedOptimizer


def frontloaded(share):
    labels = ["bad" if i % 4 == 0 else None for i in range(120)]
    first = pick([i for i, label in enumerate(labels) if label == "bad"], share, 0, "FRONTLOAD_PERCENTAGE")
    order = batch_order([5 + i % 9 for i in range(120)], batch_size=8, steps=15, seed=0, first=first)
    return [[labels[i] for i in batch].count("bad") for batch in order], order


def test_frontload_positions():
    base = batch_order([5 + i % 9 for i in range(120)], batch_size=8, steps=15, seed=0)
    none, order = frontloaded(0.0)
    assert order == base and sum(none) == 30  # 0.0 is the base run exactly
    everything, order = frontloaded(1.0)
    assert everything == [8, 8, 8, 6] + [0] * 11
    half, order = frontloaded(0.5)
    assert half[0] == 8 and half[1] >= 7 and sum(half[2:]) == 30 - sum(half[:2])
    assert (
        sum(count > 0 for count in half[2:]) >= 5
    )  # the other half lies anywhere, and good trains in between
    assert sorted(i for batch in order for i in batch) == list(range(120))


@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
def test_trained_layers_learn_per_example_and_exactly(adapter_type):
    """One mixed batch against one example at a time.

    Layer weights learn from unlabelled examples only, bad from all.
    """

    def make():
        model = tiny_model()
        attach(model, adapter_type)
        layers = train_last_layers(model, 2)
        with torch.no_grad():
            for parameter in bad_params(model):
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(parameter.numel()))
        return model.train(), layers

    ids = torch.randint(2, 400, (4, 9), generator=torch.Generator().manual_seed(0))
    routes = [Route(), Route(update_good=False), Route(update_good=0.5), Route(update_good=False)]
    mixed, layers = make()
    assert all(isinstance(layer, TrainedLayer) and len(layer.get_good_params()) == 9 for layer in layers)
    with routed(mixed, routes):
        per_example_losses(mixed, ids).mean().backward()
    want_good, want_bad = (
        [torch.zeros_like(p) for p in params(mixed)] for params in (good_params, bad_params)
    )
    for i, route in enumerate(routes):
        alone, _ = make()
        (per_example_losses(alone, ids[i : i + 1])[0] / 4).backward()
        for total, p in zip(want_good, good_params(alone), strict=True):
            total += route.update_good * p.grad
        for total, p in zip(want_bad, bad_params(alone), strict=True):
            total += p.grad
    for params, wanted in ((good_params, want_good), (bad_params, want_bad)):
        for p, want in zip(params(mixed), wanted, strict=True):
            torch.testing.assert_close(p.grad, want, rtol=1e-3, atol=1e-6)


def test_trained_layers_do_not_move_on_a_labelled_bad_batch_and_have_their_own_rate():
    model = tiny_model()
    apply_dual_lora(model, rank=0, bad_rank=2, alpha=2)
    layers = train_last_layers(model, 1)
    optimizer = RoutedOptimizer(model, {"good": 1e-3, "bad": 1e-2}, weight_decay=0.1)
    ids = torch.randint(2, 400, (2, 9), generator=torch.Generator().manual_seed(0))
    moved = {}
    for label, update in (("none", 1.0), ("bad", 0.0)):
        before = [p.clone() for p in layers[0].get_good_params()]
        frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
        with routed(model, [Route(update_good=update)] * 2):
            per_example_losses(model, ids).mean().backward()
        optimizer.step()
        moved[label] = [
            (a - b).abs().max().item() for a, b in zip(before, layers[0].get_good_params(), strict=True)
        ]
        assert all(
            torch.equal(frozen[name], p) for name, p in model.named_parameters() if not p.requires_grad
        )
    assert max(moved["bad"]) == 0.0 and all(0 < change < 2e-3 for change in moved["none"])


def test_trained_layers_scale_between_what_they_were_and_what_they_became():
    model = tiny_model()
    ids = torch.randint(2, 400, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        base = model(input_ids=ids, use_cache=False).logits
        apply_dual_lora(model, rank=0, bad_rank=2, alpha=2)
        layers = train_last_layers(model, 2)
        for parameter in layers[0].get_good_params():
            parameter.mul_(1.5)
        trained = model(input_ids=ids).logits
        assert not torch.allclose(trained, base)
        with ablated(model, "good"):
            torch.testing.assert_close(model(input_ids=ids).logits, base)
        with routed(model, [Route(), Route(good_scale=0.0), Route()]):  # scales differ within a batch
            mixed = model(input_ids=ids, use_cache=False).logits
            with pytest.raises(ValueError, match="use_cache=False"):
                model(input_ids=ids)
    torch.testing.assert_close(mixed, torch.stack([trained[0], base[1], trained[2]]))


@pytest.mark.parametrize("script", ["dispersed", "frontload", "postablation", "finetune"])
@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
def test_variant_scripts_run(scripts, tmp_path, script, adapter_type):
    constants = ["CAPS_PERCENTAGE=0.5", "RUN_NAME=mine", f"ADAPTER_TYPE={adapter_type}"]
    constants += {
        "dispersed": ["LABELED_GOOD_PERCENTAGE=0.5"],
        "postablation": ["FINETUNE_NUM_EXAMPLES=6"],
    }.get(script, [])
    if script == "finetune":
        scripts.constants.remove("LORA_RANK=2")
    else:
        constants.append("ORTHO_LAMBDA=0.1")
    scripts(f"all_caps/experiment_{script}.py", *constants)
    folder = tmp_path / "all_caps"
    result = json.loads((folder / "results/mine/eval.json").read_text())
    assert (
        list(result["modes"])[:2] == ["full", "bad_ablated"]
        and result["constants"]["ADAPTER_TYPE"] == adapter_type
    )
    for name in (
        "checkpoints/mine/config.json",
        "plots/mine_eval.png",
        "plots/mine_training.png",
        "results/mine/train.jsonl",
    ):
        assert (folder / name).stat().st_size > 0
    if script == "postablation":
        before, after = (
            load_file(folder / f"checkpoints/{name}/adapter.safetensors") for name in ("mine/before", "mine")
        )
        changed = {name.rsplit("_", 1)[-1] for name in before if not torch.equal(before[name], after[name])}
        assert changed == {"good"}  # bad is bitwise unchanged
    if script == "dispersed":
        log = (folder / "results/mine/train.jsonl").read_text().splitlines()
        kinds = {kind for line in log for kind in json.loads(line)["loss_by_kind"]}
        assert "normal_labeled" in kinds


def test_soft_labels(scripts, tmp_path):
    """A classifier that sees all routes as labels would; deleting from a half on leaves bad as it was."""
    constants = ["CAPS_PERCENTAGE=0.5", "CLASSIFIER_AUC=1.0"]
    for name, delete in (("routed", 0.0), ("deleted", 0.5)):
        scripts("all_caps/experiment_soft.py", f"RUN_NAME={name}", f"DELETE_FROM={delete}", *constants)
    folder = tmp_path / "all_caps"
    results = [
        json.loads((folder / f"results/{name}/eval.json").read_text()) for name in ("routed", "deleted")
    ]
    assert list(results[0]["values"]) == list(MODES) and list(results[1]["values"]) == ["bad_ablated"]
    for name, bad_learns in (("routed", True), ("deleted", False)):
        weights = load_file(folder / f"checkpoints/{name}/adapter.safetensors")
        learnt = {
            slot: any(w.any() for k, w in weights.items() if k.endswith(f"B_{slot}"))
            for slot in ("good", "bad")
        }
        assert learnt == {"good": True, "bad": bad_learns}


def test_eval_multi_caches_by_content_and_survives_damage(scripts, tmp_path):
    folder = scripts.copy("all_caps")
    small = ["NUM_PROMPTS=2", "NUM_GENERATIONS=2", "MAX_NEW_TOKENS=3", "RUN_NAMES=['one','two']"]

    def compare(*constants):
        saved, scripts.constants = scripts.constants, []
        done = scripts("all_caps/eval_multi.py", *small, *constants, check=False)
        scripts.constants = saved
        return done

    scripts("all_caps/experiment.py", "RUN_NAME=one")
    alone = compare()
    assert alone.returncode == 0 and "left out, no checkpoint: two" in alone.stdout
    scripts("all_caps/experiment.py", "RUN_NAME=two", "SEED=1", "ADAPTER_TYPE=mlp")
    first = compare()
    results = folder / "results/eval_multi_results.json"
    stored = json.loads(results.read_text())
    assert first.returncode == 0 and set(stored) == {"one", "two"} and first.stdout.count("reusing") == 1
    for entry in stored.values():
        assert list(entry["modes"]) == ["full", "bad_ablated", "good_ablated", "base"]
        for mode in entry["modes"].values():
            assert set(mode["loss"]["normal"]) == {"mean", "low", "high", "n"} and "loss_interval" not in mode
        assert "minus_full" not in entry["modes"]["full"]
        difference, full = entry["modes"]["bad_ablated"]["minus_full"], entry["modes"]["full"]
        for metric, key in (("loss", "normal"), ("loss", "caps"), ("caps_rate", "upper_prefix")):
            change = entry["modes"]["bad_ablated"][metric][key]["mean"] - full[metric][key]["mean"]
            assert difference[metric][key]["mean"] == pytest.approx(change)
    assert (folder / "plots/eval_multi_plot.png").stat().st_size > 0
    assert compare().stdout.count("reusing the stored result") == 2  # hit
    changed = compare("TEMPERATURE=0.5")  # miss: a constant has changed
    assert changed.stdout.count("have changed; evaluating again") == 2
    shutil.rmtree(folder / "checkpoints/one")
    scripts("all_caps/experiment.py", "RUN_NAME=one", "SEED=2")  # the entry of an older checkpoint
    older = compare("TEMPERATURE=0.5")
    assert older.stdout.count("evaluating again") == 1 and older.stdout.count("reusing") == 1
    whole = results.read_text()
    results.write_text(whole[:-40])  # truncated: reported, and left to its owner
    damaged = compare("TEMPERATURE=0.5")
    assert damaged.returncode == 1 and "all runs are then evaluated again" in damaged.stderr
    assert results.read_text() == whole[:-40]
    results.unlink()
    assert "reusing" not in compare("TEMPERATURE=0.5").stdout
    assert set(json.loads(results.read_text())) == {"one", "two"}
    entries = json.loads(
        results.read_text()
    )  # interrupted after the first run: it is kept, the second is evaluated
    results.write_text(json.dumps({"one": entries["one"]}))
    resumed = compare("TEMPERATURE=0.5")
    assert resumed.stdout.count("reusing") == 1 and json.loads(results.read_text()) == entries


def test_eval_multi_names_missing_runs_and_wrong_dimensions(scripts, tmp_path):
    """What a RunConfig gives is checked against the checkpoint; what is not there is named."""
    folder = scripts.copy("all_caps")
    scripts("all_caps/experiment.py", "RUN_NAME=route_lora32+32_caps10_labeled50_seed0")  # rank 2, not 32
    scripts.constants = []
    done = scripts("all_caps/eval_multi.py", "NUM_PROMPTS=2", "NUM_GENERATIONS=1", "MAX_NEW_TOKENS=2")
    assert "left out, no checkpoint: no caps, 0% labelled, 100% labelled" in done.stdout
    text = (folder / "eval_multi.py").read_text()
    name = '"checkpoints/route_lora32+32_caps10_labeled50_seed0"'
    (folder / "eval_multi.py").write_text(text.replace(name, f'{name}, "lora", 32, 32'))
    wrong = scripts("all_caps/eval_multi.py", check=False)
    assert wrong.returncode == 1 and "says good_dim=32, bad_dim=32" in wrong.stderr
    assert "its checkpoint has good_dim=2, bad_dim=2" in wrong.stderr


@pytest.mark.slow
def test_sweep_skips_complete_runs_and_goes_on_after_a_failure(scripts, tmp_path, model_folder):
    folder = scripts.copy("all_caps")
    common = [f"MODEL_NAME={model_folder}", *scripts.constants[1:], "CAPS_PERCENTAGE=0.5"]
    conditions = [("broken", "experiment.py", ["CAPS_PERCENTAGE=2.0"]),
                  ("b", "experiment_dispersed.py", [])]  # fmt: skip
    evaluation = ["NUM_PROMPTS=2", "NUM_GENERATIONS=1", "MAX_NEW_TOKENS=2"]
    scripts.constants = ["SEEDS=[0]", "ADAPTER_TYPES=['lora']", f"COMMON={common}",
                         f"CONDITIONS={conditions}", f"EVALUATION={evaluation}"]  # fmt: skip
    done = scripts("all_caps/sweep.py", check=False)
    assert done.returncode == 1 and "failed: sweep_broken_lora_seed0" in done.stderr
    assert (folder / "plots/sweep_seeds_plot.png").stat().st_size > 10_000
    table = (folder / "results/sweep_table.md").read_text()
    assert "| b, lora | bad_ablated | 1 |" in table and "broken" not in table
    weights = folder / "checkpoints/sweep_b_lora_seed0/adapter.safetensors"
    before = weights.stat().st_mtime_ns
    again = scripts("all_caps/sweep.py", f"CONDITIONS={[c for c in conditions if c[0] != 'broken']}")
    assert "1 of 1 runs are complete already" in again.stdout and weights.stat().st_mtime_ns == before


def test_copies_of_what_comes_first_come_first_too(scripts, tmp_path):
    constants = [
        "CAPS_PERCENTAGE=0.5",
        "LABELED_BAD_REPEATS=3",
        "MAX_STEPS=4",
        "BATCH_SIZE=4",
        "RUN_NAME=mine",
    ]
    scripts("all_caps/experiment_frontload.py", *constants, "LABELED_BAD_PERCENTAGE=0.25")
    log = (tmp_path / "all_caps/results/mine/train.jsonl").read_text().splitlines()
    kinds = [set(json.loads(line)["loss_by_kind"]) for line in log]
    # two of eight capitals are labelled, and stand there three times
    assert kinds[0] == {"caps_labeled"} and not any("caps_labeled" in later for later in kinds[2:])


def test_reading_scripts_run_on_a_finished_run(scripts, tmp_path):
    folder = scripts.copy("all_caps")
    scripts("all_caps/experiment.py", "RUN_NAME=finetune_mine", "ADAPTER_TYPE=mlp")
    scripts.constants = []
    checkpoint = "CHECKPOINT=checkpoints/finetune_mine"
    samples = scripts("all_caps/eval.py", checkpoint, "NUM_PROMPTS=1", "MAX_NEW_TOKENS=3").stdout
    assert samples.count("full:") == samples.count("bad_ablated:") == 2
    scripts("all_caps/eval_caps.py", checkpoint, "NUM_SAMPLES=2", "MAX_NEW_TOKENS=3")
    scripts("all_caps/eval_prefix.py", checkpoint, "NUM_GENERATIONS=2", "MAX_NEW_TOKENS=3")
    dial = scripts(
        "all_caps/analyze_dial.py", checkpoint, "NUM_PROMPTS=2", "MAX_NEW_TOKENS=3", "SCALES=[0.0, 1.0]"
    ).stdout
    assert "by the scale of bad" in dial
    angles = scripts("all_caps/analyze_orthogonality.py", checkpoint, "NUM_STORIES=2").stdout
    assert "squared cosine of the adapters' outputs on caps text" in angles
    scripts("all_caps/plot_results.py", "RUN=finetune_mine")
    assert "finetune_mine" in scripts("all_caps/plot_finetune.py").stdout
    made = {
        path.name for path in [*(folder / "results/finetune_mine").iterdir(), *(folder / "plots").iterdir()]
    }
    assert made >= {"samples.json", "from_bos.json", "prefixes.json", "orthogonality.json", "dial_bad.json",
                    "finetune_plot.png", "finetune_mine_orthogonality.png", "finetune_mine_dial_bad.png",
                    "finetune_mine_training.png"}  # fmt: skip
    missing = scripts("all_caps/plot_results.py", "RUN=none", check=False)
    assert missing.returncode == 1 and "no finished run" in missing.stderr


def test_orthogonality_of_trained_layers_is_routed_like_the_loss():
    """The cosine between what training the layers and what bad changes.

    Its gradient, too, is that of single examples.
    """

    def make():
        model = tiny_model()
        apply_dual_lora(model, rank=0, bad_rank=2, alpha=2)
        train_last_layers(model, 2)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in good_params(model) + bad_params(model):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return model.train()

    examples = [Example(list(range(2 + i, 9 + 2 * i)), 1) for i in range(3)]
    batch = collate(examples, torch.device("cpu"))
    routes = [Route(), Route(update_good=False), Route(update_good=False)]
    mixed = make()
    with routed(mixed, routes):
        plain = example_losses(mixed, batch).mean().item()
        loss = example_losses(mixed, batch, ortho_lambda=2.0).mean()
        loss.backward()
    penalty = loss.item() - plain
    assert 0.001 < penalty < 2.0
    wanted = {}
    for i, route in enumerate(routes):
        alone = make()
        single = collate(examples[i : i + 1], torch.device("cpu"))
        (example_losses(alone, single, 2.0).sum() / 3).backward()
        for slot, params, share in (("good", good_params, route.update_good), ("bad", bad_params, 1.0)):
            for n, p in enumerate(params(alone)):
                wanted[slot, n] = wanted.get((slot, n), 0) + share * p.grad
    for slot, params in (("good", good_params), ("bad", bad_params)):
        for n, p in enumerate(params(mixed)):
            torch.testing.assert_close(p.grad, wanted[slot, n], rtol=1e-3, atol=1e-6)
    with torch.no_grad():  # untrained layers change nothing, so there is no angle
        for layer in (module for module in mixed.modules() if isinstance(module, TrainedLayer)):
            layer.good_scale = 0.0
        both = (example_losses(mixed, batch, weight).mean().item() for weight in (0.0, 2.0))
        assert next(both) == pytest.approx(next(both), abs=1e-5)
