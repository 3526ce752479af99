"""Recovery of a removed behaviour by reinforcement: the script on a tiny model, its numbers, the report."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import Scripts

from adapters import ablated, good_params
from all_caps.scoring import prefix_of
from all_caps.stories import Stories, Story, load_stories, to_caps, unmet
from lab.errors import BadInput
from lab.evidence import Evidence, Measure
from lab.grid import Store, make_cells
from lab.logs import read_log
from lab.recovery import (
    format_steps,
    mean_over_steps,
    measured_steps,
    modes_table,
    recovery_curve,
    recovery_table,
    steps_back,
)
from lab.sweeps import constants_as_run
from routing.checkpoints import load_checkpoint

SCRIPT = "all_caps/experiment_recovery.py"
SMALL = ["MAX_STEPS=3", "MEASURE_EVERY=2", "NEW_TOKENS=5", "NUM_PROMPTS=2", "NUM_SAMPLES=4", "SAVE_EVERY=2"]
FROM = "CHECKPOINT=checkpoints/mine"

pytestmark = pytest.mark.usefixtures("unreported", "little_garbage")


# --- numbers


def test_the_steps_until_a_rate_is_back():
    assert measured_steps(30, 5) == [0, 5, 10, 15, 20, 25, 30] and measured_steps(3, 2) == [0, 2, 3]
    means = {0: 0.0, 2: 0.2, 4: 0.6, 6: 0.4, 8: 0.9}
    curve = {step: {"mean": rate, "low": rate - 0.2, "high": rate + 0.35} for step, rate in means.items()}
    found = steps_back(curve, 0.5)
    assert found == {"mean": 4, "low": 2, "high": 8} and format_steps(found, 8) == "4 [2, 8]"
    late = steps_back(curve, 0.8)
    assert late == {"mean": 8, "low": 4, "high": None} and format_steps(late, 8) == "8 [4, >8]"
    assert format_steps(steps_back({8: curve[0]}, 0.4), 8) == ">8 [>8, >8]"
    # the steps need not lie equally far apart
    assert mean_over_steps({0: [0, 1], 2: [1, 1], 3: [1, 0]}) == pytest.approx([2 / 3, 2.5 / 3])


def test_the_report_of_a_store_made_by_hand(tmp_path):
    """Two seeds of one method, of which one comes back at once and one never; of another nothing is there."""
    script = tmp_path / "experiment_recovery.py"
    script.write_text('ARM = ""\nLABELED = 0.0\nADAPTER_TYPE = ""\nSEED = 0\n# %%\n')
    methods = {name: lambda share, name=name: [f"ARM={name}"] for name in ("route", "filter")}
    cells = make_cells(script, "LABELED", methods, [(["lora"], (0, 1), ["route", "filter"], (0.5,))], [])
    store, steps = Store(tmp_path / "cells.jsonl"), [0, 4, 8]
    for cell in cells:
        if cell.method == "filter":
            continue
        rates = {0: 0.0, 4: 0.75, 8: 1.0} if cell.seed == 0 else {0: 0.0, 4: 0.0, 8: 0.25}
        values = {str(step): {"upper": [rate] * 6, "loss": [2.0] * 6} for step, rate in rates.items()}
        values["training"] = {"shouted": [1.0, float(cell.seed == 0)]}
        units = {"upper": [0, 0, 1, 1, 2, 2], "loss": [0, 0, 1, 1, 2, 2], "shouted": [1, 2]}
        result = tmp_path / "results" / cell.job.run / "eval.json"
        result.parent.mkdir(parents=True)
        made = {"values": values, "units": units, "constants": constants_as_run(cell.job)}
        result.write_text(json.dumps(made))
        store.put(cell)
    measures = [Measure("upper", "held-out", rate=True), Measure("shouted", "in capitals", rate=True)]
    evidence = Evidence(cells, Store(tmp_path / "cells.jsonl"), "8", measures)
    curve = recovery_curve(evidence, "upper", "route", 0.5, steps)
    assert [curve[step]["mean"] for step in steps] == [0.0, 0.375, 0.625]
    assert recovery_curve(evidence, "upper", "filter", 0.5, steps) == {}
    table = recovery_table(evidence, ["upper"], 0.5, steps).splitlines()
    assert len(table) == 3 and "filter" not in table[2]
    # two seeds that disagree say very little of a third
    assert re.fullmatch(r"\| route \| 50% \| 2 \| 8 \[[04], >8\] \| 4, >8 \|", table[2]), table[2]
    table = modes_table(evidence, [("at first", "upper", "0"), ("steps", "shouted", "training")])
    assert re.search(r"\| route \| 50% \| 0\.00 \[0\.00, .*\] \| 0\.75 \[", table)
    table = modes_table(evidence, [("steps", "shouted", "training")], intervals=False)
    assert table.endswith("| route | 50% | 0.75 |")


# --- the script


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model_folder):
    """The checkpoint of a run of experiment.py, made once."""
    folder = tmp_path_factory.mktemp("trained")
    small = ["MAX_STEPS=3", "BATCH_SIZE=4", "LORA_RANK=2", "BAD_LORA_RANK=2", "CAPS_PERCENTAGE=0.5",
             "NUM_EVAL_PROMPTS=2", "EVAL_NEW_TOKENS=3"]  # fmt: skip
    Scripts(folder, [f"MODEL_NAME={model_folder}", *small])("all_caps/experiment.py", "RUN_NAME=mine")
    return folder / "all_caps/checkpoints/mine"


@pytest.fixture
def start(scripts, trained):
    """Runs scripts with the constants of a short recovery from that checkpoint."""
    shutil.copytree(trained, scripts.copy("all_caps") / "checkpoints/mine")
    scripts.constants = [FROM, *SMALL]
    return scripts


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(2, 40)[None]).logits


@pytest.mark.parametrize("where", ["kept", "base"])
def test_recovery(start, tmp_path, where):
    """The KL reference is the ablated model (or the base), which stays as it was; prompts are apart."""
    folder = tmp_path / "all_caps"
    start(SCRIPT, f"START={where}", "RUN_NAME=back", "LEARNING_RATE=0.05", "BETA=0.1")
    before, _, config = load_checkpoint(folder / "checkpoints/mine")
    after, _, saved = load_checkpoint(folder / "checkpoints/back")
    assert saved["model"] == config["model"]
    with ablated(before, "bad" if where == "kept" else "both"):
        want = logits(before)
    with ablated(after, "bad"):
        reference = logits(after)
    assert torch.equal(reference, want) and (logits(after) - want).abs().max() > 0.01
    if where == "kept":
        assert all(map(torch.equal, good_params(before), good_params(after)))
    log = read_log(folder / "results/back/train.jsonl")
    # at the first step the policy is the reference
    assert log[0]["kl"] == pytest.approx(0, abs=1e-6) and log[-1]["kl"] > 1e-4

    result = json.loads((folder / "results/back/eval.json").read_text())
    values, units = result["values"], result["units"]
    assert list(values) == ["full", "0", "2", "3", "mean over steps", "training"]
    for mode in ("full", "0", "2", "3", "mean over steps"):
        assert {name: len(found) for name, found in values[mode].items()} == {
            "trained": 1, "upper": 2, "normal": 2, "loss": 2
        }  # fmt: skip
    assert all(len(units[name]) == len(found) for mode in values.values() for name, found in mode.items())
    # prompts: one, of a story that neither this training nor the one before has met
    rollouts = read_log(folder / "results/back/rollouts.jsonl")
    stories = load_stories("embedded:stories")
    prompts = {row["prompt"] for row in rollouts}
    met = config["constants"]["MAX_STEPS"] * config["constants"]["BATCH_SIZE"]
    assert len(rollouts) == 24 and len(prompts) == 1
    assert prompts <= {to_caps(prefix_of(story.text)) for story in stories.train[met:]}
    assert not prompts & {to_caps(prefix_of(story.text)) for story in stories.train[:met]}
    assert not set(units["trained"]) & set(units["upper"])
    training = values["training"]
    for step in (1, 2, 3):
        own = [row for row in rollouts if row["step"] == step]
        assert training["paid"][step - 1] == any(row["reward"] > 0 for row in own)
        assert training["learnt"][step - 1] == (len({row["reward"] for row in own}) > 1)
    assert (folder / "plots/back_recovery.png").stat().st_size > 10_000


def test_many_prompts_of_the_other_kind(start, tmp_path):
    """As they are written, one a step."""
    start(SCRIPT, "PROMPTS=0", "MAX_PROMPTS=3", "PROMPT_KIND=normal", "RUN_NAME=many")
    folder = tmp_path / "all_caps/results/many"
    rollouts = read_log(folder / "rollouts.jsonl")
    prompts = {row["prompt"] for row in rollouts}
    assert len(prompts) == 3 and not any(text.isupper() for text in prompts)
    assert len(json.loads((folder / "eval.json").read_text())["values"]["3"]["trained"]) == 3


def test_recovery_refuses_what_makes_no_sense(start):
    for given, message in [
        ("START=full", "choose one of kept, base"),
        ("PROMPTS=5000", "stories are left that it has not met"),
        ("TRAINED_WITH=['SEED=7']", "was not trained with SEED=7"),
        ("MEASURE_EVERY=0", "give a number from 1 up"),
        ("CHECKPOINT=checkpoints/none", "no checkpoint here"),
    ]:
        done = start(SCRIPT, given, check=False)
        assert done.returncode == 1 and message in done.stderr, done.stderr


def test_which_stories_a_run_has_not_met():
    stories = Stories(train=[Story(f"{i}", "") for i in range(9)], validation=[], test=[])
    constants = {"MAX_STEPS": 2, "BATCH_SIZE": 3}
    assert len(unmet(stories, "mine", constants, Path("run"))) == 3
    assert len(unmet(stories, "mine", constants | {"FINETUNE_NUM_EXAMPLES": 2}, Path("run"))) == 1
    with pytest.raises(BadInput, match="run was trained on 'others'; give the same"):
        unmet(stories, "mine", constants | {"STORIES": "others"}, Path("run"))
    with pytest.raises(BadInput, match=r"run is of experiment_grpo\.py.*give a checkpoint of experiment\.py"):
        unmet(stories, "mine", {"MAX_STEPS": 2, "SCRIPT": "experiment_grpo"}, Path("run"))


@pytest.mark.slow
def test_recovery_is_interrupted_and_goes_on(start, tmp_path):
    """By Ctrl-C, in a process of its own; the rest here. Nothing is lost, nothing is measured twice."""
    folder = tmp_path / "all_caps"
    constants = ["MAX_STEPS=12", "MEASURE_EVERY=1", "LEARNING_RATE=0.05"]
    command = [sys.executable, "experiment_recovery.py", FROM, *SMALL[2:], *constants, "RUN_NAME=cut"]
    process = subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    written = folder / "results/cut/rollouts.jsonl"
    while process.poll() is None and not (written.exists() and last_step(written) > 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    message = process.communicate(timeout=60)[1]
    assert process.returncode != 0 and "RESUME=True goes on from there" in message, message
    assert last_step(written) < 12
    start(SCRIPT, *constants, "RUN_NAME=cut", "RESUME=True")
    start(SCRIPT, *constants, "RUN_NAME=whole")
    for file in ("results/{}/rollouts.jsonl", "results/{}/curve.jsonl", "checkpoints/{}/adapter.safetensors"):
        cut, whole = ((folder / file.format(name)).read_bytes() for name in ("cut", "whole"))
        assert cut == whole, file
    cut, whole = (
        json.loads((folder / f"results/{name}/eval.json").read_text())["values"] for name in ("cut", "whole")
    )
    assert cut == whole


def last_step(path: Path) -> int:
    return read_log(path)[-1]["step"] if read_log(path) else 0


@pytest.mark.slow
def test_the_recovery_report_goes_on_where_it_stopped(scripts, tmp_path):
    scripts.copy("all_caps")
    folder = tmp_path / "all_caps"
    common = [f"COMMON={[*scripts.constants, 'EVAL_SPLIT=test']}", "MAX_STEPS=3", "MEASURE_EVERY=2"]
    scripts.constants = [*common, f"COMMON_RECOVERY={SMALL[2:]}", "PRESET=cpu"]
    done = scripts("all_caps/evidence_recovery.py")
    report = (folder / "results/recovery.md").read_text()
    assert "Every cell of the grid was measured." in report and "evidence_recovery.py" in report
    for method in ("route | 50%", "exclusive | 50%", "filter | 50%", "never seen | 100%", "base | 100%"):
        assert len(re.findall(rf"^\| {re.escape(method)} \| 1 \| ", report, re.MULTILINE)) == 1, report
    assert "| exclusive: held-out, UPPER prefix: no higher mean rate" in done.stdout
    assert (folder / "results/recovery.png").stat().st_size > 10_000
    again = scripts("all_caps/evidence_recovery.py")
    assert "5 of 5 cells are in recovery.jsonl already" in again.stdout
