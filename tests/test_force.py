"""kill -9 at random moments: the next start goes on, nothing finished is lost, nothing torn counts as whole.

KILLS=20 uv run pytest -m slow -n 0 -s tests/test_force.py says where the kills fell. Work runs in forked
processes, which import nothing again; what kills them is a real SIGKILL.
"""

import itertools
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import run_here, tiny_model
from reference import attach
from test_judge import GOOD, JudgeServer, loopback, make, server  # noqa: F401  (fixtures)
from test_training import a_run

from lab.errors import BadInput
from lab.grid import Store, make_cells, run_cells
from lab.judge import Verdict
from lab.llm_judge import cache_key
from lab.logs import read_log
from lab.runs import CONFIG, STARTED
from routing.checkpoints import (
    TRAINING_STATE,
    adapter_state,
    load_adapters,
    save_checkpoint,
)
from routing.optimizer import RoutedOptimizer
from routing.training_state import load_training_state, read_training_state, save_training_state

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("KILLS", "3"))
# another seed, other moments
MOMENTS = random.Random(int(os.environ.get("KILLS_SEED", "0")))


def start(work: Callable[[], object]) -> int:
    """A forked process, leader of a group, that does the work; it exits with 1 if that raises."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        work()
        code = 0
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)


def killed(work: Callable[[], object], after: float, group: bool = False) -> bool:
    """Do the work and kill it after so many seconds; False if it had ended by then, and well."""
    child, end = start(work), time.monotonic() + after
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0
            return False
        time.sleep(0.002)
    (os.killpg if group else os.kill)(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def kill_until_it_ends(
    work: Callable[[], object], seconds: float, see: Callable[[], str], fell: Counter
) -> None:
    """Start the work up to three times, killing it at random, until it ends by itself; then let it end.

    `see` checks what a kill left and says where it fell.
    """
    for _ in range(min(3, KILLS - fell.total())):
        if not killed(work, MOMENTS.uniform(0, seconds)):
            return
        fell[see()] += 1
    assert not killed(work, 300)


def timed(work: Callable[[], object]) -> float:
    before = time.monotonic()
    assert not killed(work, 300)
    return time.monotonic() - before


def report(what: str, fell: Counter) -> None:
    print(f"\n{what}: {fell.total()} kills; {', '.join(f'{n} {where}' for where, n in sorted(fell.items()))}")


def test_a_run(scripts, tmp_path):
    """Training, its checkpoints and evaluation: what comes out is bit for bit that of a run nobody killed."""
    folder = scripts.copy("all_caps")
    small = [*scripts.constants, "MAX_STEPS=10", "SAVE_EVERY=2", "CAPS_PERCENTAGE=0.5", "PROBE_EVERY=0"]

    def work(name: str) -> Callable[[], None]:
        def run() -> None:
            done = run_here(folder, "experiment.py", [*small, f"RUN_NAME={name}", "RESUME=True"])
            assert done.returncode == 0, done.stderr

        return run

    def outcome(name: str) -> tuple:
        lines = [
            {key: value for key, value in line.items() if key != "tokens_per_s"}
            for line in read_log(folder / f"results/{name}/train.jsonl")
        ]
        modes = json.loads((folder / f"results/{name}/eval.json").read_text())["modes"]
        return (folder / f"checkpoints/{name}/adapter.safetensors").read_bytes(), lines, modes

    def see(name: str) -> str:
        checkpoint, results = folder / "checkpoints" / name, folder / "results" / name
        if (results / "eval.json").exists():
            json.loads((results / "eval.json").read_text())
            return "behind the evaluation"
        if (checkpoint / TRAINING_STATE).exists():
            step = read_training_state(checkpoint / TRAINING_STATE)["step"]
            log = results / "train.jsonl"
            assert step <= (len(read_log(log)) if log.exists() else 0)
            halves = list(checkpoint.glob(".*")) + list(results.glob(".*"))
            return "in the writing of a file" if halves else "in training"
        if (checkpoint / CONFIG).exists():
            return "in the evaluation"
        return "before training"

    # what the first one loads, the second has at hand
    timed(work("whole"))
    seconds, want, fell = timed(work("again")), outcome("whole"), Counter()
    assert outcome("again") == want
    for chain in itertools.count():
        name = f"killed{chain}"
        kill_until_it_ends(work(name), seconds, lambda name=name: see(name), fell)
        assert outcome(name) == want
        left = [path for path in folder.rglob(".*") if path.is_file() and path.parent.name == name]
        assert sorted(path.name for path in (folder / "checkpoints" / name).iterdir()) == [
            "adapter.safetensors", "config.json"]  # fmt: skip
        assert not left
        if fell.total() >= KILLS:
            break
    report("a run", fell)


def test_a_checkpoint(tmp_path):
    """States and checkpoints are written one over the other; what is read back is of one writing."""
    model = tiny_model()
    attach(model, "lora")
    optimizer, run, fell = RoutedOptimizer(model, 1e-2), a_run(tmp_path), Counter()
    folder = run.checkpoint

    def fill(value: float) -> None:
        with torch.no_grad():
            for parameter in adapter_state(model).values():
                parameter.fill_(value)

    def work() -> None:
        for n in itertools.count(1):
            fill(n)
            save_training_state(run, model, optimizer, n, "data")
            fill(-n)
            save_checkpoint(run, model, [])

    for _ in range(KILLS):
        assert killed(work, MOMENTS.uniform(0.01, 0.5))
        fill(0.5)
        there = {name for name in (CONFIG, STARTED, TRAINING_STATE) if (folder / name).exists()}
        if there - {STARTED}:
            # a checkpoint is whole, or said not to be
            try:
                load_adapters(folder, model)
            except BadInput as error:
                assert "not of one run" in str(error) or "no checkpoint here" in str(error)
                assert TRAINING_STATE in there
        fill(0.5)
        resumed = a_run(tmp_path, RESUME=True)
        examples = "data" if TRAINING_STATE in there else load_data(folder)
        step = load_training_state(resumed, model, optimizer, 10_000, examples)
        values = {value.item() for tensor in adapter_state(model).values() for value in tensor.unique()}
        assert len(values) == 1
        value = values.pop()
        assert (step, value) == (0, 0.5) or value == step or (step == 10_000 and value < 0)
        fell["nothing saved" if not step else "a state" if step < 10_000 else "a checkpoint"] += 1
    report("writing a checkpoint, what the next start went on from", fell)


def load_data(folder: Path) -> str | None:
    return (
        json.loads((folder / CONFIG).read_text())["data_fingerprint"] if (folder / CONFIG).exists() else None
    )


def test_a_comparison(scripts, tmp_path):
    """eval_multi.py: what was evaluated is never evaluated again, and the table is that of one start."""
    folder = scripts.copy("all_caps")
    names = ["one", "two", "three"]
    for seed, name in enumerate(names):
        scripts("all_caps/experiment.py", f"RUN_NAME={name}", f"SEED={seed}", "MAX_STEPS=1")
    fell = Counter()

    def work(output: str) -> Callable[[], None]:
        def compare() -> None:
            there = entries(output)
            small = ["NUM_PROMPTS=2", "NUM_GENERATIONS=1", "MAX_NEW_TOKENS=3", f"RUN_NAMES={names}"]
            done = run_here(folder, "eval_multi.py", [*small, f"OUTPUT={output}"])
            assert done.returncode == 0 and done.stdout.count("reusing") == len(there), done.stderr

        return compare

    def entries(output: str) -> dict:
        path = folder / f"results/{output}_results.json"
        return json.loads(path.read_text()) if path.exists() else {}

    timed(work("whole"))
    seconds, want = timed(work("again")), entries("whole")
    assert list(want) == names
    for chain in itertools.count():
        output, before = f"killed{chain}", {}

        def see(output=output, before=before) -> str:
            there = entries(output)
            assert there.items() <= want.items() and before.items() <= there.items()
            before.update(there)
            return f"with {len(there)} of {len(names)} runs evaluated"

        kill_until_it_ends(work(output), seconds, see, fell)
        assert entries(output) == want
        if fell.total() >= KILLS:
            break
    report("eval_multi", fell)


SCRIPT = """
RUN_NAME = ""
RESUME = False
SEED = 0
ADAPTER_TYPE = "lora"
LABELED = 0.0
# %%
import time
from lab.constants import override_constants
from lab.files import write_json
from lab.runs import open_run
CONSTANTS = override_constants(globals())
run = open_run(__file__, "toy", CONSTANTS, {})
time.sleep(0.1)
units = {"rate": list(range(20))}
values = {"kept": {"rate": [SEED] * 20}}
write_json(run.results / "eval.json", {"constants": run.constants, "values": values, "units": units})
with open("finished", "a") as file:
    file.write(f"{run.name}\\n")
"""


def test_a_grid(tmp_path):
    """Its cells run as processes, which outlive it or die with it: each is kept once."""
    fell, twice = Counter(), 0
    for chain in itertools.count():
        folder = tmp_path / f"{chain}"
        folder.mkdir()
        script = folder / "toy.py"
        script.write_text(SCRIPT)
        blocks = [(["lora"], range(4), ["toy"], (0.0, 0.5))]
        cells = make_cells(script, "LABELED", {"toy": lambda share: []}, blocks, [])
        path = folder / "cells.jsonl"

        def work(cells=cells, path=path) -> None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            # after a kill its cells may still run: they are named, and tried again
            while run_cells(cells, Store(path), path.parent / "logs", workers=2):
                time.sleep(0.05)

        if not chain:
            seconds = timed(work)
            continue
        before: list[str] = []
        while fell.total() < KILLS:
            group = MOMENTS.random() < 0.5
            if not killed(work, MOMENTS.uniform(0, 1.2 * seconds), group):
                break
            lines = path.read_text().splitlines() if path.exists() else []
            # what is kept stays, and every line is whole
            assert lines[: len(before)] == before and len(Store(path).records) == len(lines)
            before = lines
            fell[f"{'with' if group else 'without'} its cells, {'some' if lines else 'none'} kept"] += 1
        assert not killed(work, 300)
        records = Store(path).records
        assert len(records) == len(cells) == 8 and all(Store(path).find(cell) for cell in cells)
        assert {record["values"]["kept"]["rate"][0] for record in records} == set(range(4))
        # one that outlived the grid before it held its run is started once more, and kept once
        finished = Counter((folder / "finished").read_text().split())
        assert set(finished) == {cell.job.run for cell in cells}
        twice += sum(n > 1 for n in finished.values())
        if fell.total() >= KILLS:
            break
    report("a grid", fell)
    print(f"cells that ran twice: {twice} of {8 * chain}")


def test_a_judges_batch(server: JudgeServer, tmp_path, monkeypatch):  # noqa: F811
    """No answer that was kept is asked for again, and none is lost or torn."""
    # connections break off
    monkeypatch.setattr(server, "handle_error", lambda *_: None)
    prompts = [f"{n}" for n in range(60)]
    server.answer = lambda number, prompt: json.dumps({**GOOD, "reason": prompt * 2000})
    server.delay = 0.01
    fell = Counter()

    def work(folder: Path) -> Callable[[], None]:
        return lambda: make(folder, batch_size=4)(prompts, prompts)

    def asked() -> list[str]:
        return [json.loads(request["messages"][-1]["content"])["prompt"] for request in server.requests]

    (tmp_path / "whole").mkdir()
    seconds = timed(work(tmp_path / "whole"))
    lost = 0
    for chain in itertools.count():
        folder, kept = tmp_path / f"{chain}", set()
        folder.mkdir()
        while fell.total() < KILLS:
            server.requests.clear()
            if not killed(work(folder), MOMENTS.uniform(0, 1.2 * seconds)):
                break
            # those on their way are let arrive
            time.sleep(0.05)
            judge, now = make(folder), set()
            for prompt in prompts:
                if judge._kept(cache_key(judge.model, judge.rubric, prompt, prompt)):
                    now.add(prompt)
            assert kept <= now <= kept | set(asked()) and not kept & set(asked())
            lost += len(asked()) - len(now - kept)
            fell["in the batch" if now else "before the first answer"] += 1
            kept = now
        server.requests.clear()
        assert not killed(work(folder), 300) and not kept & set(asked())
        assert make(folder)(prompts, prompts) == [Verdict(9, 8, 4, prompt * 2000) for prompt in prompts]
        if fell.total() >= KILLS:
            break
    report("a judge's batch", fell)
    print(f"requests whose answers were not kept: {lost}")
