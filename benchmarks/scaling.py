"""One optimizer step of one global batch on 1 and on 2 processes, in turns.

    python benchmarks/scaling.py [--model SmolLM2-135M] [--batch 8] [--tokens 64] [--steps 5] [--rounds 3]
    [--json FILE]

On one machine without several GPUs this shows the overhead of a second process, not a speed-up: the processes
share the cores (each gets half of the threads), so the ideal is a ratio of 1.0. docs/scaling.md plans from
here."""

import argparse
import json
import os
import subprocess
import sys
import time

import torch
import torch.distributed as dist
from common import SHAPES, emit, make_model, median, mixed_batch, ratio, report, synchronize

from adapters import Route, apply_dual_lora, bad_params, good_params, routed
from routing.distributed import average_gradients, is_main, rank, start, world_size
from routing.losses import example_losses
from routing.optimizer import RoutedOptimizer
from routing.probes import step_metrics

ROUTES = {None: Route(), "bad": Route(update_good=False), "good": Route(update_bad=False, bad_scale=0.0)}


def worker(args: argparse.Namespace) -> None:
    """Print the seconds of each step, and of the exchange of gradients alone, as JSON."""
    start()
    model = make_model(args.model)
    apply_dual_lora(model, rank=args.rank, bad_rank=args.rank, alpha=args.rank)
    optimizer = RoutedOptimizer(model, 1e-4)
    whole = mixed_batch(model.config.vocab_size, args.batch, args.tokens, model.device)
    batch = whole.select(range(rank(), args.batch, world_size()))
    params = good_params(model) + bad_params(model)
    steps, exchanges = [], []
    for _ in range(args.steps + 1):
        synchronize()
        begin = time.perf_counter()
        with routed(model, [ROUTES[label] for label in batch.labels]):
            losses = example_losses(model, batch)
            losses.mean().backward()
        average_gradients(params)
        optimizer.step()
        step_metrics(
            [(batch, losses.detach())], optimizer
        )  # every process sends its losses to the others, as in a real run
        synchronize()
        steps.append(time.perf_counter() - begin)
        if world_size() > 1:
            dist.barrier()  # waiting for the slower process is not communication
        begin = time.perf_counter()
        average_gradients(params)
        synchronize()
        exchanges.append(time.perf_counter() - begin)
    if is_main():
        size = sum(p.numel() * p.element_size() for p in params)
        print(json.dumps({"steps": steps[1:], "exchanges": exchanges[1:], "gradient_mb": size / 2**20}))


def launch(args: argparse.Namespace, processes: int) -> dict:
    """Run this script's worker on so many processes that share this machine's threads."""
    threads = max(1, torch.get_num_threads() // processes) if not torch.cuda.is_available() else 4
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(processes),
    ]
    for name in ("model", "batch", "tokens", "rank", "steps"):
        if name == "model":
            command += [__file__, "--worker"]
        command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="SmolLM2-135M", choices=list(SHAPES))
    parser.add_argument("--batch", type=int, default=8, help="global batch")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", help="write the results to this file")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args)
    with report(args.json) as content:
        measured: dict[int, list[dict]] = {n: [] for n in args.processes}
        for _ in range(args.rounds):
            for n in args.processes:
                measured[n].append(launch(args, n))
        first = [median(run["steps"]) for run in measured[args.processes[0]]]
        content["setting"] = {k: v for k, v in vars(args).items() if k not in ("json", "worker")}
        content["processes"] = {}
        for n, runs in measured.items():
            seconds = [median(run["steps"]) for run in runs]
            content["processes"][n] = {
                "seconds": [round(s, 4) for s in seconds],
                "tokens_per_s": round(args.batch * args.tokens / median(seconds), 1),
                "time_over_first": ratio(seconds, first),
                "exchange_seconds": round(median([median(run["exchanges"]) for run in runs]), 5),
                "gradient_mb": round(runs[0]["gradient_mb"], 2),
            }
            emit(processes=n, **content["processes"][n])


if __name__ == "__main__":
    main()
