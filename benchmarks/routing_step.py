"""One optimizer step on a mixed batch (unlabelled, bad and good examples), several ways side by side.

    python benchmarks/routing_step.py [--model SmolLM2-135M] [--batch 8] [--tokens 64] [--rank 32]
                                      [--alpha 16] [--rounds 5] [--json FILE]

The contestants, ours and what one would use otherwise, are described in contestants.py.
"""

import argparse

import torch
from common import SHAPES, report
from contestants import CONTESTANTS
from side_by_side import measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="SmolLM2-135M", choices=list(SHAPES))
    parser.add_argument("--layers", type=int, help="use only so many layers of the shape")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rank", type=int, default=32, help="of each of the two adapters")
    parser.add_argument("--alpha", type=float, help="default: rank, which needs no factor alpha / rank")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--json", help="write the results to this file")
    args = parser.parse_args()
    args.alpha = args.rank if args.alpha is None else args.alpha
    names = ["ours", *(name for name in args.contestants if name != "ours")]
    with report(args.json) as content:
        content["setting"] = {k: v for k, v in vars(args).items() if k not in ("json", "contestants")}
        keys = ("layers", "batch", "tokens", "rank", "alpha", "rounds")
        size = {name: getattr(args, name) for name in keys}
        # on a GPU there is room for the weights once, and no such allocator
        content["contestants"] = measure(names, args.model, **size, own_process=not torch.cuda.is_available())
    print(f"\n{'':<24}{'tokens/s':>10}{'time / ours':>24}{'peak MB':>10}")
    for name, result in content["contestants"].items():
        if "failed" in result:
            print(f"{name:<24}  {result['failed']}")
            continue
        r = result["time_over_ours"]
        spread = f"{r['median']:.2f} [{r['low']:.2f}, {r['high']:.2f}]"
        print(f"{name:<24}{result['tokens_per_s']:>10.0f}{spread:>24}{result['peak_memory_mb'] or 0:>10.0f}")


if __name__ == "__main__":
    main()
