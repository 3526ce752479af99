"""How the cost of a routed step grows with batch, rank, sequence length and depth.

Beside it stand PEFT LoRA and the floor without adapters.

    python benchmarks/growth.py [--model SmolLM2-135M] [--axes batch rank tokens layers checkpointing]
                                [--rounds 3] [--json FILE]

Everything but the axis stays at batch 8, 64 tokens, rank 32 + 32 and the model's depth (batch 1 along the
sequence length). "checkpointing" compares the memory of the longest sequence with and without activation
checkpointing.
"""

import argparse

from common import SHAPES, emit, median, report
from side_by_side import measure

NAMES = ("ours", "peft_lora", "floor")
AXES = {  # axis -> (contestants, settings)
    "batch": (NAMES, [{"batch": n} for n in (1, 4, 16, 64)]),
    "rank": (NAMES, [{"rank": n} for n in (1, 4, 16, 64, 256)]),
    "tokens": (NAMES, [{"batch": 1, "tokens": n} for n in (64, 256, 512, 1024, 2048)]),
    "layers": (NAMES, [{"layers": n} for n in (2, 8, 16, None)]),
    "checkpointing": (
        ("ours", "ours_checkpointed", "peft_lora", "peft_lora_checkpointed"),
        [{"batch": 1, "tokens": 2048}],
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="SmolLM2-135M", choices=list(SHAPES))
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="write the results to this file")
    args = parser.parse_args()
    with report(args.json) as content:
        content["setting"] = {"model": args.model, "rounds": args.rounds}
        content["axes"] = {axis: [] for axis in args.axes}
        for axis in args.axes:
            names, settings = AXES[axis]
            print(f"\n{axis}")
            for setting in settings:
                emit(**setting)
                result = measure(names, args.model, rounds=args.rounds, **setting)
                content["axes"][axis].append({**setting, "contestants": result})
    for axis, points in content["axes"].items():
        names, _ = AXES[axis]
        print(f"\n{axis:<24}{'ours':>24}" + "".join(f"{name:>28}" for name in names[1:]))
        for point in points:
            setting = ", ".join(f"{key} {value}" for key, value in point.items() if key != "contestants")
            print(f"{setting:<24}" + "".join(map(cell, point["contestants"].values())))


def cell(result: dict) -> str:
    """Seconds, time over ours, peak memory."""
    if "failed" in result:
        return f"{'failed':>28}"
    seconds, over_ours = median(result["seconds"]), result["time_over_ours"]["median"]
    memory = result["peak_memory_mb"]
    return f"{seconds:>10.2f} s {over_ours:>5.2f}x" + (
        f"{memory:>6.0f} MB" if memory is not None else " " * 9
    )


if __name__ == "__main__":
    main()
