"""What evaluation costs: sampling, judging programs, and the wait for a first result.

All ablation modes are sampled in one pass; programs are judged in the sandbox.

    python benchmarks/evaluation.py [--model SmolLM2-135M] [--prompts 16] [--new-tokens 24]
                                    [--rounds 5] [--json FILE]
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from common import SHAPES, emit, interleave, make_model, median, ratio, report, synchronize

from adapters import apply_dual_lora
from mbpp.execution import run_programs, sandbox_level
from mbpp.problems import load_problems
from routing.generation import MODES, sample_modes
from routing.models import load_model

REPO = Path(__file__).parents[1]
STORY = "Once upon a time a small grey cat lived beside the old mill, and every morning"


def sampling(args: argparse.Namespace) -> dict:
    """Tokens/s of four modes in one pass, and of the modes one after another.

    EOS is never sampled: all rows are full length.
    """
    _, tokenizer = load_model("embedded:SmolLM2-135M-Instruct")
    model = make_model(args.model).eval()
    apply_dual_lora(model, rank=32, bad_rank=32, alpha=32)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(len(tokenizer) - 1)
    prompts = [STORY] * args.prompts
    shared = (args.new_tokens, 1.0, 0)

    def one_pass() -> None:
        sample_modes(model, tokenizer, prompts, MODES, *shared)

    def one_after_another() -> None:
        for name, route in MODES.items():
            sample_modes(model, tokenizer, prompts, {name: route}, *shared)

    seconds = interleave({"one_pass": one_pass, "one_after_another": one_after_another}, args.rounds)
    tokens = args.prompts * args.new_tokens * len(MODES)
    result = {name: {"tokens_per_s": round(tokens / median(values), 1)} for name, values in seconds.items()}
    result["speedup"] = ratio(seconds["one_after_another"], seconds["one_pass"])
    emit(what="sampling", prompts=args.prompts, **result)
    return result


def judging(args: argparse.Namespace) -> dict:
    """Programs/s: in the sandbox, and in bare `python -I -S -B` processes, as many at a time.

    The sandbox runs every test in a process of its own; "bare" runs a program with all its tests in one,
    "bare_per_test" in one each."""
    problems = load_problems("embedded:basics").train[: args.programs]
    jobs = [(problem.code, problem.tests) for problem in problems]
    workers = math.ceil(1.5 * len(os.sched_getaffinity(0)))
    python = [sys.executable, "-I", "-S", "-B", "-c"]
    together = [[*python, "\n".join([code, *tests])] for code, tests in jobs]
    apart = [[*python, f"{code}\n{test}"] for code, tests in jobs for test in tests]

    def sandboxed() -> None:
        assert all(verdict == "passed" for row in run_programs(jobs, 10.0, workers) for verdict in row)

    def unprotected(commands: list[list[str]]) -> None:
        with ThreadPoolExecutor(workers) as pool:
            ended = pool.map(lambda command: subprocess.run(command, capture_output=True), commands)
            assert not any(process.returncode for process in ended)

    ways = {
        "sandbox": sandboxed,
        "bare": lambda: unprotected(together),
        "bare_per_test": lambda: unprotected(apart),
    }
    seconds = interleave(ways, args.rounds)
    result = {
        name: {"programs_per_s": round(len(jobs) / median(values), 1)} for name, values in seconds.items()
    }
    result["level"] = sandbox_level()
    result |= {f"time_over_{name}": ratio(seconds["sandbox"], seconds[name]) for name in list(ways)[1:]}
    emit(what="judging", **result)
    return result


def first_step(args: argparse.Namespace) -> dict:
    """Seconds from starting all_caps/experiment.py, in a new process, to the end of its first step."""
    command = [sys.executable, "experiment.py", "MAX_STEPS=1", "NUM_EVAL_PROMPTS=1", "RUN_NAME=benchmark"]
    waits = []
    for _ in range(args.rounds):
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=REPO / "all_caps", stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        seen = b""
        while not re.search(rb"1/1 \[", seen):
            chunk = process.stderr.read1(4096)
            if not chunk:
                raise RuntimeError(f"experiment.py ended early: {seen.decode()[-500:]}")
            seen += chunk
        waits.append(time.perf_counter() - start)
        process.kill()
        process.wait()
    result = {"seconds": [round(wait, 1) for wait in waits], "median": round(median(waits), 1)}
    emit(what="first_step", **result)
    return result


PARTS = {f.__name__: f for f in (sampling, judging, first_step)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default="SmolLM2-135M", choices=[name for name in SHAPES if name != "tiny"]
    )
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--programs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--json", help="write the results to this file")
    args = parser.parse_args()
    torch.manual_seed(0)
    synchronize()
    with report(args.json) as content:
        content["setting"] = {k: v for k, v in vars(args).items() if k != "json"}
        content |= {part: PARTS[part](args) for part in args.parts}
    print(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
