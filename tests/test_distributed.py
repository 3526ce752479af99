"""Two processes (gloo) do what one does: losses, weights, resuming, one writer.

The processes are real ones, started by torchrun.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import distributed_run
import pytest
import torch
from conftest import REPO
from distributed_run import RUNS


def torchrun(*command, cwd=REPO):
    """Run a command in two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    done = subprocess.run(
        [*launcher, "--standalone", *map(str, command)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """A folder with what two processes made of every run of RUNS."""
    folder = tmp_path_factory.mktemp("two")
    torchrun(Path(distributed_run.__file__), folder)
    return folder


@pytest.fixture
def one(tmp_path):
    """Does a run in this process alone; returns its folder."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)

    def train(adapter_type, how):
        distributed_run.train(tmp_path / "one", adapter_type, how)
        return tmp_path / "one"

    yield train
    torch.use_deterministic_algorithms(before)


def outcome(folder):
    lines = [json.loads(line) for line in (folder / "results/mine/train.jsonl").read_text().splitlines()]
    return torch.load(folder / "final.pt"), lines, json.loads((folder / "held_out.json").read_text())


def assert_same(one, two):
    one, two = outcome(one), outcome(two)
    for name in one[0]:
        torch.testing.assert_close(one[0][name], two[0][name], rtol=0, atol=1e-6)
    assert len(one[1]) == len(two[1]) == 6
    for a, b in zip(one[1], two[1], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-6) and a["tokens"] == b["tokens"]
        assert a["loss_by_kind"] == pytest.approx(b["loss_by_kind"], abs=1e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], abs=1e-6)
    assert one[2] == pytest.approx(two[2], abs=1e-6)


@pytest.mark.parametrize("name", ["lora-mixed", "mlp-mixed", "lora-alone", "lora-sharded"])
def test_two_processes_train_as_one(one, two, name):
    assert_same(one(*RUNS[name][:2]), two / name)


def test_processes_with_folders_of_their_own_and_only_the_first_writes(one, two):
    """As on two machines, where the log, the state to resume from and the checkpoint are on the first alone.

    Killed after step 4, resumed to its end, and resumed once more, when its adapters are only loaded.
    """
    assert_same(one("lora", "mixed"), two / "apart")
    assert list((two / "apart_1").rglob("*")) == []
    written = {str(path.relative_to(two / "apart")) for path in (two / "apart").rglob("*.*")}
    assert written == {
        "checkpoints/mine/adapter.safetensors", "checkpoints/mine/config.json", "final.pt", "held_out.json",
        "plots/mine_training.png", "results/mine/eval.json", "results/mine/train.jsonl", "tables/table.md",
    }  # fmt: skip


def test_resuming_with_another_number_of_processes(one, two):
    """Left by two processes after step 4, gone on with by one."""
    distributed_run.train(two / "other-number", "lora", "mixed", resume=True)
    assert_same(one("lora", "mixed"), two / "other-number")


def test_a_script_runs_unchanged_and_writes_once(scripts, tmp_path):
    folder = scripts.copy("all_caps")
    done = torchrun("experiment.py", *scripts.constants, "RUN_NAME=two", cwd=folder)
    assert done.stdout.count("bad_ablated ") == 1
    lines = (folder / "results/two/train.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2]
    hidden = [path for path in folder.rglob(".*") if path.suffix in (".json", ".png")]
    assert not hidden
    scripts("all_caps/experiment.py", "RUN_NAME=one")
    one, two = (
        json.loads((folder / f"results/{run}/eval.json").read_text())["modes"] for run in ("one", "two")
    )
    for mode in one:
        # the base is bf16 where the CPU can
        for text in one[mode]["loss"]:
            assert one[mode]["loss"][text] == pytest.approx(two[mode]["loss"][text], abs=0.02)
        assert one[mode]["caps_rate"].keys() == two[mode]["caps_rate"].keys()
