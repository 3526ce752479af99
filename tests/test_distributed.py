"""Two processes (gloo) do what one does: losses, weights, resuming, one writer. Real processes, started by
torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPO

RUN = Path(__file__).with_name("distributed_run.py")


def torchrun(processes, *command, cwd=REPO):
    """Run a command on so many processes; with one, without torchrun."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += [
            "-m",
            "torch.distributed.run",
            "--nproc_per_node",
            str(processes),
            "--master_port",
            "0",
            "--standalone",
        ]
    done = subprocess.run(
        [*launcher, *map(str, command)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done


def outcome(folder):
    lines = [json.loads(line) for line in (folder / "results/mine/train.jsonl").read_text().splitlines()]
    return torch.load(folder / "final.pt"), lines, json.loads((folder / "held_out.json").read_text())


def assert_same(one, two):
    for name in one[0]:
        torch.testing.assert_close(one[0][name], two[0][name], rtol=0, atol=1e-6)
    assert len(one[1]) == len(two[1]) == 6
    for a, b in zip(one[1], two[1], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-6) and a["tokens"] == b["tokens"]
        assert a["loss_by_kind"] == pytest.approx(b["loss_by_kind"], abs=1e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], abs=1e-6)
    assert one[2] == pytest.approx(two[2], abs=1e-6)


@pytest.mark.parametrize(
    ("adapter_type", "routing"), [("lora", "mixed"), ("mlp", "mixed"), ("lora", "alone"), ("lora", "sharded")]
)
def test_two_processes_train_as_one(tmp_path, adapter_type, routing):
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        torchrun(processes, RUN, tmp_path / str(processes), adapter_type, 6, "fresh", routing)
    assert_same(outcome(tmp_path / "1"), outcome(tmp_path / "2"))


def test_processes_with_folders_of_their_own_and_only_the_first_writes(tmp_path):
    """As on two machines, where the log, the state to resume from and the checkpoint are on the first
    alone."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    torchrun(1, RUN, tmp_path / "one", "lora", 6, "fresh", "mixed")
    torchrun(2, RUN, tmp_path / "two", "lora", 4, "fresh", "apart")  # saved after step 3, killed after step 4
    torchrun(2, RUN, tmp_path / "two", "lora", 6, "resume", "apart")
    assert_same(outcome(tmp_path / "one"), outcome(tmp_path / "two"))
    assert list((tmp_path / "two_1").rglob("*")) == []
    written = {str(path.relative_to(tmp_path / "two")) for path in (tmp_path / "two").rglob("*.*")}
    assert written == {
        "checkpoints/mine/adapter.safetensors", "checkpoints/mine/config.json", "final.pt", "held_out.json",
        "plots/mine_training.png", "results/mine/eval.json", "results/mine/train.jsonl", "tables/table.md",
    }  # fmt: skip
    torchrun(
        2, RUN, tmp_path / "two", "lora", 6, "resume", "apart"
    )  # a finished run: its adapters are loaded
    assert_same(outcome(tmp_path / "one"), outcome(tmp_path / "two"))


def test_resuming_with_another_number_of_processes(tmp_path):
    (tmp_path / "1").mkdir()
    torchrun(1, RUN, tmp_path / "1", "lora", 6, "fresh", "mixed")
    (tmp_path / "2").mkdir()
    torchrun(2, RUN, tmp_path / "2", "lora", 4, "fresh", "mixed")  # saved after step 3, killed after step 4
    torchrun(1, RUN, tmp_path / "2", "lora", 6, "resume", "mixed")
    assert_same(outcome(tmp_path / "1"), outcome(tmp_path / "2"))


def test_a_script_runs_unchanged_and_writes_once(scripts, tmp_path):
    folder = scripts.copy("all_caps")
    done = torchrun(2, "experiment.py", *scripts.constants, "RUN_NAME=two", cwd=folder)
    assert done.stdout.count("bad_ablated ") == 1
    lines = (folder / "results/two/train.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2]
    assert not [
        path for path in folder.rglob("*") if path.name.startswith(".") and path.suffix in (".json", ".png")
    ]
    scripts("all_caps/experiment.py", "RUN_NAME=one")
    one, two = (
        json.loads((folder / f"results/{run}/eval.json").read_text())["modes"] for run in ("one", "two")
    )
    for mode in one:
        # the base is bf16 where the CPU can
        for text in one[mode]["loss"]:
            assert one[mode]["loss"][text] == pytest.approx(two[mode]["loss"][text], abs=0.02)
        assert one[mode]["caps_rate"].keys() == two[mode]["caps_rate"].keys()
    wrong = [*scripts.constants, "BATCH_SIZE=3"]
    with pytest.raises(AssertionError, match="give a multiple of the number of processes"):
        torchrun(2, "experiment.py", *wrong, cwd=folder)
