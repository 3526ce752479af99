"""The benchmarks run, and their contestants do the same work."""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import REPO
from peft.tuners.lora import LoraLayer

from adapters import routed_modules


def benchmark(tmp_path, script, *arguments):
    """Run a script of benchmarks/ on one thread; returns what it wrote to --json."""
    result = tmp_path / "result.json"
    command = [sys.executable, REPO / "benchmarks" / script, *arguments, "--rounds", "1", "--json", result]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=one_thread)
    assert done.returncode == 0, done.stderr
    return json.loads(result.read_text())


@pytest.mark.slow
def test_routing_step(tmp_path):
    size = ["--model", "tiny", "--batch", "4", "--tokens", "16", "--rank", "2"]
    result = benchmark(tmp_path, "routing_step.py", *size, "--contestants", "ours")
    assert {"device", "versions", "setting", "contestants"} <= set(result)
    assert list(result["contestants"]) == ["ours"]
    assert result["setting"]["alpha"] == 2  # the rank
    for measured in result["contestants"].values():
        assert {"tokens_per_s", "peak_memory_mb", "seconds", "time_over_ours"} == set(measured)  # none failed


@pytest.mark.slow
def test_every_contestant_runs(monkeypatch):
    monkeypatch.syspath_prepend(REPO / "benchmarks")
    from contestants import CONTESTANTS
    from side_by_side import measure

    names = [name for name in CONTESTANTS if not name.endswith("_compiled")]  # compiling takes long
    result = measure(names, "tiny", batch=4, tokens=16, rank=2, rounds=1, alpha=3)
    assert list(result) == names and not any("failed" in measured for measured in result.values())


@pytest.mark.slow
def test_a_contestant_that_cannot_run_says_why(monkeypatch):
    monkeypatch.syspath_prepend(REPO / "benchmarks")
    from side_by_side import measure

    result = measure(["ours", "nobody"], "tiny", tokens=8, rank=2, rounds=1, own_process=True)
    assert "nobody" in result["nobody"]["failed"] and result["ours"]["seconds"]


@pytest.mark.slow
def test_growth(tmp_path):
    result = benchmark(tmp_path, "growth.py", "--model", "tiny", "--axes", "layers")
    assert [point["layers"] for point in result["axes"]["layers"]] == [2, 8, 16, None]
    assert all(
        set(point["contestants"]) == {"ours", "peft_lora", "floor"} for point in result["axes"]["layers"]
    )


@pytest.mark.slow
def test_judging(tmp_path):
    result = benchmark(tmp_path, "evaluation.py", "--parts", "judging", "--programs", "4")["judging"]
    assert {"sandbox", "bare", "bare_per_test", "time_over_bare", "time_over_bare_per_test"} < set(result)


@pytest.mark.slow
def test_scaling(tmp_path):
    result = benchmark(
        tmp_path, "scaling.py", "--model", "tiny", "--batch", "4", "--tokens", "8", "--steps", "1"
    )
    assert list(result["processes"]) == ["1", "2"]


@pytest.mark.parametrize("alpha", [2, 3])
@pytest.mark.parametrize(
    "other, rows",
    [("torch_func", [0, 1, 2, 3]), ("reference_loop", [0]), ("reference_loop", [1]), ("reference_loop", [3])],
)
def test_contestants_take_the_same_step(other, rows, alpha, monkeypatch):
    """Per-example gradients take our step on a mixed batch.

    The loop takes it on an unlabelled, a bad and a good example.
    """
    monkeypatch.syspath_prepend(REPO / "benchmarks")
    from common import make_model, mixed_batch
    from contestants import CONTESTANTS

    base = make_model("tiny", dtype=torch.float32)
    batch = mixed_batch(1000, 4, 16, base.device).select(rows)
    weights = []
    for name in ("ours", other):
        model = copy.deepcopy(base)
        torch.manual_seed(0)
        step = CONTESTANTS[name](model, batch, 2, alpha)
        for _ in range(3):
            step()
        weights.append([p.detach() for m in routed_modules(model) for p in m.parameters(recurse=False)])
    assert any(p.abs().max() > 0 for p in weights[0][1::2])  # the up projections, which begin as zeros
    for ours, theirs in zip(*weights, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("alpha", [2, 3])
@pytest.mark.parametrize("name", ["peft_lora", "peft_split"])
def test_pefts_adapters_count_as_much_as_ours(name, alpha, monkeypatch):
    """alpha / rank is the factor, whatever the rank that PEFT's adapter has."""
    monkeypatch.syspath_prepend(REPO / "benchmarks")
    from common import make_model, mixed_batch
    from contestants import CONTESTANTS

    model = make_model("tiny", dtype=torch.float32)
    CONTESTANTS[name](model, mixed_batch(1000, 4, 16, model.device), 2, alpha)
    factors = [
        f for module in model.modules() if isinstance(module, LoraLayer) for f in module.scaling.values()
    ]
    assert len(factors) >= 14 and set(factors) == {alpha / 2}
