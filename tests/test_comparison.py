"""Comparing runs.

What a RunConfig says, what a stored result depends on, and one base for many checkpoints.
"""

import json
import subprocess
import sys

import pytest
import torch
from conftest import randomize

import mbpp.run_config
from lab.errors import BadInput
from lab.results import cache_key, sources_hash
from lab.run_config import RunConfig, check_names, check_run
from lab.runs import Run
from lab.sweeps import Job, constants_as_run, is_complete
from routing.checkpoints import CheckpointLoader, load_checkpoint, save_checkpoint
from routing.generation import routes_of
from routing.models import attach_adapters, load_model, remove_adapters

CPU = torch.device("cpu")
IDS = torch.randint(2, 400, (3, 9), generator=torch.Generator().manual_seed(0))
ADAPTERS = {
    "lora": ("lora", 0),
    "mlp": ("mlp", 0),
    "layers": ("lora", 2),
}


def save_run(folder, model_folder, which: str, dim: int = 2, seed: int = 1):
    adapter_type, layers = ADAPTERS[which]
    model, _ = load_model(str(model_folder), "float32", device=CPU)
    lora = {"rank": 0 if layers else dim, "bad_rank": dim, "alpha": 2, "dropout": 0.0}
    mlp = {"adapter_dim": dim, "bad_adapter_dim": dim + 1}
    attach_adapters(model, adapter_type, lora, mlp, trained_layers=layers)
    randomize(model, seed)
    run = Run(folder.name, folder.parent, {"MODEL_NAME": str(model_folder)})
    save_checkpoint(run, model, [])
    return run.checkpoint


def test_one_base_serves_checkpoints_of_all_kinds_exactly(tmp_path, model_folder):
    """Each set of adapters, put on a base that had others before, gives a fresh load's logits.

    They agree to the last bit.
    """
    loader, models = CheckpointLoader(CPU), []
    for number, which in enumerate(("lora", "layers", "mlp", "lora")):
        folder = save_run(tmp_path / str(number), model_folder, which, dim=2 + number)
        fresh, _, config = load_checkpoint(folder, CPU)
        model, tokenizer, same = loader.load(folder)
        models.append(model)
        assert same == config and tokenizer.pad_token_id is not None and not model.training
        with torch.no_grad():
            logits = model(input_ids=IDS, use_cache=False).logits
            assert torch.equal(logits, fresh(input_ids=IDS, use_cache=False).logits)
    assert all(model is models[0] for model in models)
    remove_adapters(models[0])
    base, _ = load_model(str(model_folder), "float32", device=CPU)
    assert [*base.state_dict()] == [*models[0].state_dict()]
    with torch.no_grad():
        assert torch.equal(models[0](input_ids=IDS).logits, base(input_ids=IDS).logits)


def test_another_base_is_loaded_anew(tmp_path, model_folder):
    folder = save_run(tmp_path / "one", model_folder, "lora")
    loader = CheckpointLoader(CPU)
    first = loader.load(folder)[0]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "base_dtype": "bfloat16"}))
    second = loader.load(folder)[0]
    assert second is not first and next(p for p in second.parameters()).dtype == torch.bfloat16


def test_name_and_path_are_enough_and_what_is_given_is_checked(tmp_path, model_folder):
    folder = save_run(tmp_path / "run", model_folder, "mlp")  # dimensions 2 and 3
    run = RunConfig("dispersed", str(folder))
    assert run.label == "dispersed" and list(routes_of(run.eval_modes)) == [
        "full",
        "bad_ablated",
        "good_ablated",
    ]
    check_run(run, folder)
    modes = [(1.0, 0.5, "half")]
    given = RunConfig("dispersed", str(folder), "mlp", 2, 3, modes, "five percent")
    check_run(given, folder)
    assert given.label == "five percent" and routes_of(given.eval_modes)["half"].bad_scale == 0.5
    with pytest.raises(BadInput, match="says bad_dim=9, but its checkpoint has bad_dim=3"):
        check_run(RunConfig("dispersed", str(folder), "mlp", 2, 9), folder)
    with pytest.raises(BadInput, match="says adapter_type='lora', but its checkpoint has adapter_type='mlp'"):
        check_run(RunConfig("dispersed", str(folder), adapter_type="lora"), folder)
    with pytest.raises(BadInput, match="each name may stand there once"):
        check_names([run, RunConfig("dispersed", "elsewhere")])
    with pytest.raises(BadInput, match="no checkpoint here"):
        check_run(run, tmp_path)


def test_mbpp_has_its_own_words(tmp_path, model_folder):
    folder = save_run(tmp_path / "run", model_folder, "lora")
    run = mbpp.run_config.RunConfig("routed", str(folder), "lora", retain_dim=2, forget_dim=4)
    assert isinstance(run, RunConfig) and (run.retain_dim, run.forget_dim) == (2, 4)
    assert [name for _, _, name in run.eval_modes] == ["full", "forget_ablated", "retain_ablated"]
    with pytest.raises(BadInput, match="says forget_dim=4, but its checkpoint has forget_dim=2"):
        check_run(run, folder)


def test_run_configs_import_no_torch():
    code = "import sys, lab.run_config, mbpp.run_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_stored_result_depends_on_code_machine_and_data(tmp_path, model_folder):
    folder = save_run(tmp_path / "run", model_folder, "lora")
    task = tmp_path / "task"
    task.mkdir()
    (task / "scoring.py").write_text("RIGHT = 1\n")
    (task / "experiment.py").write_text('"""A script."""\n\n# %% Constants\nSEED = 0\n')
    before = sources_hash(task)
    (task / "experiment.py").write_text('"""A script."""\n\n# %% Constants\nSEED = 1\n')
    assert sources_hash(task) == before  # scripts' constants are in the key by themselves
    (task / "scoring.py").write_text("RIGHT = 2\n")
    assert sources_hash(task) != before
    same = [folder, [(1.0, 1.0, "full")], {"SEED": 0}, "data", "code", "cpu", "bubblewrap"]
    keys = {cache_key(*same)}
    others = [None, [(1.0, 0.0, "full")], {"SEED": 1}, "other data", "other code", "cuda", "none"]
    for i, other in enumerate(others[1:], 1):
        keys.add(cache_key(*same[:i], other, *same[i + 1 :]))
    assert len(keys) == 7 and cache_key(*same) in keys


def test_a_run_of_other_defaults_is_not_complete(tmp_path):
    """A constant edited in the script after the run makes it another run.

    So does one that the sweep set.
    """
    script = tmp_path / "experiment.py"
    text = "import x\n\n# %% Constants\nSEED = 0\nLEARNING_RATE = 5e-4\nEVAL_PROMPTS = 4\n"
    text += 'RESUME = False\nRUN_NAME = ""\n'
    text += 'HERE = x.y()\n\n# %% Setup\nROUTES = {"a": 1}\nOTHER = 3\n'
    script.write_text(text)
    job = Job("mine", script, ("SEED=1",))
    made = {"SEED": 1, "LEARNING_RATE": 5e-4, "EVAL_PROMPTS": 4, "RESUME": True, "RUN_NAME": "mine"}
    made["SCRIPT"] = "experiment"
    assert constants_as_run(job) == {**made, "RESUME": False, "RUN_NAME": ""}
    results = tmp_path / "results/mine/eval.json"
    results.parent.mkdir(parents=True)
    results.write_text(json.dumps({"constants": made}))
    assert is_complete(job) and not is_complete(Job("mine", script, ("SEED=2",)))
    for old, new in (("5e-4", "1e-3"), ("PROMPTS = 4", "PROMPTS = 8"), ("RESUME =", "NEW = 1\nRESUME =")):
        script.write_text(text.replace(old, new))
        assert not is_complete(job)
    (tmp_path / "experiment_random.py").write_text(text)
    assert not is_complete(Job("mine", tmp_path / "experiment_random.py", ("SEED=1",)))
    with pytest.raises(BadInput, match="unknown constant 'SEDE'"):
        is_complete(Job("mine", script, ("SEDE=2",)))
