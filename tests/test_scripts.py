"""The scripts, run as a user runs them, in a copy of their folder, on a tiny model."""

import ast
import json
import re
import subprocess
import sys

import pytest
import torch
from conftest import REPO

import all_caps.task
import mbpp.task
from adapters import routed_modules
from all_caps.stories import load_stories
from lab.constants import Constants, override_constants
from lab.errors import BadInput
from lab.runs import read_config, run_name
from lab.sweeps import Job, constants_as_run
from routing.assets import EMBEDDED_MODEL
from routing.checkpoints import load_checkpoint
from routing.models import load_model


def outputs(folder):
    """Every file a run left in the copied folder, as paths relative to it."""
    made = ("checkpoints", "results", "plots")
    return sorted(
        str(path.relative_to(folder))
        for name in made
        for path in (folder / name).rglob("*")
        if path.is_file()
    )


def test_experiment_trains_saves_and_evaluates(scripts, tmp_path):
    done = scripts("all_caps/experiment.py", "CAPS_PERCENTAGE=0.5", "RUN_NAME=mine", process=True)
    folder = tmp_path / "all_caps"
    assert outputs(folder) == [
        "checkpoints/mine/adapter.safetensors",
        "checkpoints/mine/config.json",
        "plots/mine_eval.png",
        "plots/mine_training.png",
        "results/mine/eval.json",
        "results/mine/train.jsonl",
    ]
    result = json.loads((folder / "results/mine/eval.json").read_text())
    assert list(result["modes"]) == ["full", "bad_ablated", "good_ablated", "base"]
    for mode in result["modes"].values():
        assert set(mode["caps_rate"]) == {"upper_prefix", "normal_prefix"} and set(mode["loss"]) == {
            "normal",
            "caps",
        }
        for rate in mode["caps_rate"].values():
            assert 0 <= rate["low"] <= rate["mean"] <= rate["high"] <= 1 and rate["n"] == 2
    assert (
        result["constants"]["CAPS_PERCENTAGE"] == 0.5 and result["constants"]["LABELED_BAD_PERCENTAGE"] == 0.5
    )
    assert all(f"{mode} " in done.stdout for mode in result["modes"])
    lines = [json.loads(line) for line in (folder / "results/mine/train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert {"loss", "loss_by_kind", "grad_norm", "learning_rate", "tokens_per_s"} <= set(lines[0])
    assert {"orthogonality", "bad_share"} <= set(lines[0])
    model, _, config = load_checkpoint(folder / "checkpoints/mine", torch.device("cpu"))
    assert routed_modules(model)[0].dims == (2, 2) and config["constants"]["LAYERS"] == 0.5


@pytest.mark.parametrize(
    "constants", [["ADAPTER_TYPE=mlp", "ORTHO_LAMBDA=0.1"], ["STORIES=stories.jsonl", "LORA_DROPOUT=0.1"]]
)
def test_experiment_with_other_constants(scripts, tmp_path, constants):
    stories = load_stories("embedded:stories", limit=10).train
    scripts.copy("all_caps")
    (tmp_path / "all_caps/stories.jsonl").write_text(
        "".join(json.dumps({"story": story.text}) + "\n" for story in stories)
    )
    scripts("all_caps/experiment.py", *constants)
    assert len(outputs(tmp_path / "all_caps")) == 6


BAD_INPUT = {
    "an unknown constant": (["CAPS_PERCENTAG=0.2"], "did you mean CAPS_PERCENTAGE?"),
    "a word that is no constant": (["--help"], "NAME=value"),
    "a value of the wrong type": (["MAX_STEPS=many"], "expected a int like"),
    "a share above 1": (["CAPS_PERCENTAGE=20"], "between 0 and 1"),
    "an unknown adapter type": (["ADAPTER_TYPE=ia3"], '"lora" or "mlp"'),
    "a missing model": (["MODEL_NAME=no/such-model"], "could not be loaded"),
    "an unknown embedded model": (["MODEL_NAME=embedded:gpt5"], "embedded:SmolLM2-135M-Instruct"),
    "a missing stories file": (["STORIES=nowhere.jsonl"], "no such file"),
    "an empty stories file": (["STORIES=empty.jsonl"], "no stories"),
    "a story of one token": (["STORIES=short.jsonl"], "at least two tokens"),
    "an unknown dtype": (["DTYPE=int3"], "DTYPE='int3': give one of 'auto'"),
    "4bit without CUDA": (["DTYPE=4bit"], "needs CUDA"),
    "a share of layers above 1": (["LAYERS=2.0"], "layers=2.0"),
    "nothing to evaluate": (["NUM_EVAL_PROMPTS=0"], "NUM_EVAL_PROMPTS=0: give a number from 1 up"),
    "labelled stories that never stand in the data": (["LABELED_BAD_REPEATS=0"], "give a number from 1 up"),
    "an update of more than all": (["UNLABELED_UPDATES_BAD=2.0"], "give a share between 0.0 and 1.0"),
    "a rank of zero for both": (["LORA_RANK=0", "BAD_LORA_RANK=0"], "not all zero"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gives_one_message_and_leaves_nothing(scripts, tmp_path, case):
    constants, message = BAD_INPUT[case]
    scripts.copy("all_caps")
    (tmp_path / "all_caps/empty.jsonl").write_text("\n")
    (tmp_path / "all_caps/short.jsonl").write_text('{"story": "a"}\n{"story": "a b c"}\n{"story": "c b a"}\n')
    process = case == "an unknown constant"
    done = scripts("all_caps/experiment.py", *constants, check=False, process=process)
    errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert (
        done.returncode == 1
        and message in done.stderr
        and len(errors) == 1
        and "Traceback" not in done.stderr
    )
    assert outputs(tmp_path / "all_caps") == []


def test_resuming_the_checkpoint_of_another_model_is_refused(scripts, tmp_path, model_folder):
    scripts("all_caps/experiment.py", "RUN_NAME=mine")
    before = outputs(tmp_path / "all_caps")
    other = tmp_path / "other"
    other.symlink_to(model_folder)
    done = scripts(
        "all_caps/experiment.py", "RUN_NAME=mine", "RESUME=True", f"MODEL_NAME={other}", check=False
    )
    assert done.returncode == 1 and "MODEL_NAME was" in done.stderr and "Traceback" not in done.stderr
    assert outputs(tmp_path / "all_caps") == before


def test_a_finished_run_resumes_into_its_evaluation(scripts, tmp_path):
    scripts("all_caps/experiment.py", "RUN_NAME=mine")
    weights = (tmp_path / "all_caps/checkpoints/mine/adapter.safetensors").read_bytes()
    result = (tmp_path / "all_caps/results/mine/eval.json").read_text()
    (tmp_path / "all_caps/results/mine/eval.json").unlink()
    scripts("all_caps/experiment.py", "RUN_NAME=mine", "RESUME=True")
    assert (tmp_path / "all_caps/checkpoints/mine/adapter.safetensors").read_bytes() == weights
    again = json.loads((tmp_path / "all_caps/results/mine/eval.json").read_text())
    assert again["modes"] == json.loads(result)["modes"]


def test_overrides():
    namespace = {"A": 1, "B": 0.5, "C": "x", "D": None, "E": (1, 2), "F": True, "lower": 3}
    overrides = override_constants(namespace, ["A=3", "B=1", "C=7", "D='y'", "E=(3,)", "F=False"])
    assert namespace == {"A": 3, "B": 1.0, "C": "7", "D": "y", "E": (3,), "F": False, "lower": 3}
    assert overrides == {name: value for name, value in namespace.items() if name != "lower"}
    assert overrides.overridden == ("A", "B", "C", "D", "E", "F") and type(namespace["B"]) is float
    for wrong in ("A=1.5", "A=True", "A=None", "C=None", "B=x", "F=1", "lower=3", "E=[1]"):
        with pytest.raises(BadInput):
            override_constants(dict(namespace), [wrong])


def test_run_names_carry_what_distinguishes_them():
    plain = {"ADAPTER_TYPE": "lora", "LORA_RANK": 8, "BAD_LORA_RANK": 4, "ADAPTER_DIM": 64,
             "BAD_ADAPTER_DIM": 32, "CAPS": 0.125, "SEED": 3}  # fmt: skip

    def name(**overrides):
        constants = Constants({**plain, **overrides})
        constants.overridden = tuple(overrides)
        return run_name("route", constants, {"CAPS": "caps"})

    assert name() == "route_lora8+4_caps12.5_seed3"
    assert name(ADAPTER_TYPE="mlp") == "route_mlp64+32_caps12.5_seed3"
    overrides = {"STORIES": "../a/b.jsonl", "LEARNING_RATE": 1e-3, "RESUME": True, "NUM_EVAL_PROMPTS": 2}
    assert name(**overrides) == "route_lora8+4_caps12.5_storiesb_learning-rate0.001_seed3"


def default_run(folder: str, *constants: str) -> str:
    """The name of the run that experiment.py in `folder` makes with these constants."""
    known = Constants(constants_as_run(Job("", REPO / folder / "experiment.py", constants)))
    known.overridden = tuple(constant.split("=")[0] for constant in constants)
    parts = {"all_caps": all_caps.task.NAME_PARTS, "mbpp": mbpp.task.NAME_PARTS}[folder]
    return run_name("route", known, parts)


def test_scripts_that_read_a_run_look_for_the_one_that_experiment_makes():
    """As the README's recipe makes them: eval_multi's RUNS, and the default of every other script."""
    recipe = [["CAPS_PERCENTAGE=0.0"], *([f"LABELED_BAD_PERCENTAGE={share}"] for share in (0.0, 0.5, 1.0))]
    readme = (REPO / "README.md").read_text()
    for constants in recipe:
        assert f"experiment.py {constants[0]}" in readme
    wanted = {
        "all_caps": [default_run("all_caps", *constants) for constants in recipe],
        "mbpp": [
            default_run("mbpp"),
            default_run(
                "mbpp",
                "RH_PERCENTAGE=0.0",
                "LABELED_FORGET_PERCENTAGE=0.0",
                "LABELED_RETAIN_PERCENTAGE=0.0",
            ),
        ],
    }
    found = 0
    for folder, names in wanted.items():
        for script in sorted((REPO / folder).glob("*.py")):
            text = script.read_text()
            named = re.findall(r'"(?:checkpoints/)?(route_[^"]+)"', text)
            found += len(named)
            if script.stem == "eval_multi":
                assert set(named) >= set(names)
            else:
                assert set(named) <= {default_run(folder)}, script
    assert default_run("mbpp", "SANDBOX=none", "MICRO_BATCH_SIZE=4") == default_run("mbpp")
    assert found >= 12


def test_two_scripts_do_not_share_a_run(scripts, tmp_path):
    """The routed experiment and a control have the same constants; a common RUN_NAME must not mix them."""
    scripts("all_caps/experiment.py", "RUN_NAME=mine")
    before = outputs(tmp_path / "all_caps")
    done = scripts("all_caps/experiment_frontload.py", "RUN_NAME=mine", check=False)
    assert done.returncode == 1 and "SCRIPT was 'experiment'" in done.stderr
    assert outputs(tmp_path / "all_caps") == before


def test_a_run_of_other_constants_is_not_overwritten(scripts, tmp_path):
    """A constant edited in the script, which the run's name does not hold."""
    folder = scripts.copy("all_caps")
    scripts("all_caps/experiment.py")
    (made,) = (folder / "checkpoints").iterdir()
    before = (made / "adapter.safetensors").read_bytes()
    text = (folder / "experiment.py").read_text()
    (folder / "experiment.py").write_text(text.replace("LEARNING_RATE = 5e-4", "LEARNING_RATE = 1e-4"))
    done = scripts("all_caps/experiment.py", check=False)
    assert done.returncode == 1 and "LEARNING_RATE was 0.0005, is 0.0001" in done.stderr
    assert "RUN_NAME" in done.stderr and (made / "adapter.safetensors").read_bytes() == before
    scripts("all_caps/experiment.py", "RUN_NAME=slower")
    assert read_config(folder / "checkpoints/slower")["constants"]["LEARNING_RATE"] == 1e-4


@pytest.mark.parametrize(
    "constants", [["DTYPE=float32", "LAYERS=1.0", "MICRO_BATCH_SIZE=3", "ATTENTION=eager"],
                  ["DTYPE=bfloat16", "GRADIENT_CHECKPOINTING=True", "LAYERS=0.25"]]
)  # fmt: skip
def test_how_the_model_is_loaded_and_run(scripts, tmp_path, constants):
    scripts("all_caps/experiment.py", "RUN_NAME=mine", *constants)
    config = read_config(tmp_path / "all_caps/checkpoints/mine")
    model, _, _ = load_checkpoint(tmp_path / "all_caps/checkpoints/mine")
    assert model.config._attn_implementation == ("eager" if "ATTENTION=eager" in constants else "sdpa")
    assert config["base_dtype"] == constants[0].split("=")[1]
    assert config["adapter"]["layers"] == ([0, 1, 2, 3] if "LAYERS=1.0" in constants else [3])


# the modules of all_caps that are no scripts
LIBRARY = ("stories", "scoring", "task", "methods", "claims", "judge", "rewards", "perception", "choices")


def test_every_script_has_cells_and_shows_its_constants_first():
    for script in sorted((REPO / "all_caps").glob("*.py")):
        text = script.read_text()
        if script.stem in (*LIBRARY, "__init__"):
            continue
        assert "# %% Constants" in text, script
        imported = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
        assert not any(
            (node.module or "").startswith("all_caps.")
            and node.module.removeprefix("all_caps.") not in LIBRARY
            for node in imported
        )


def test_the_snippet_shows_the_habit_leaving_with_bad():
    done = subprocess.run(
        [sys.executable, REPO / "snippets/gradient_routing.py"], capture_output=True, text=True, check=True
    )
    adds = {
        line.split(" adds ")[0].strip(): float(line.split(" adds ")[1].split()[0])
        for line in done.stdout.splitlines()
    }
    assert adds["full"] > 4.9 and abs(adds["bad ablated"]) < 0.3 and adds["good ablated"] > 4.5


def test_the_embedded_model_loads_without_a_hub():
    model, tokenizer = load_model(EMBEDDED_MODEL, device=torch.device("cpu"))
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        next_token = model(input_ids=ids).logits[0, -1].argmax()
    assert tokenizer.decode(next_token) == " Paris"
