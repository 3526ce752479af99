"""The evidence: routing beside deletion, over shares of labels and seeds, as a report to be made again.

Cells that OUTPUT.jsonl has already are not run again; delete that file to start anew. Cells run as processes,
so an interrupted grid goes on where it was.
"""

# %% Constants
from pathlib import Path

from lab.constants import check_choice, override_constants

PRESET = "cpu"  # an hour on two cores; "published": what docs/evidence holds; "gpu": the whole grid
OUTPUT = "results/evidence"  # .jsonl, .csv, .md and .png; the published one: "../docs/evidence/mbpp"
WORKERS = 2  # runs at a time, which share the cores; 0: only the report of what is there
COMMON = ["EVAL_SPLIT=test", "PROBE_EVERY=0", "LABELED_RETAIN_PERCENTAGE=0.5"]  # for every cell

# from the shell: CONSTANT=value
CONSTANTS = override_constants(globals())
HERE = Path(__file__).parent

# %% The grid
from lab.evidence import Evidence, Measure
from lab.grid import Store, make_cells, run_cells
from lab.report import (
    Claim,
    claims_table,
    distances_table,
    figure_over_labels,
    left_out,
    measures_table,
    publish,
)

# "recipe" was chosen on validation (LOG.md): forget learns from labels alone, with retain ablated. It then
# holds the whole hack by itself, and retain is not taught to work against it. "trusted" is trained on the
# problems labelled retain alone.
METHODS = {  # name -> share labelled -> constants of experiment_arms.py
    "none": lambda share: ["ARM=none"],
    "filter": lambda share: ["ARM=filter", repeats(share)],
    "route": lambda share: ["ARM=route", "UNLABELED_UPDATES_FORGET=1.0"],
    "recipe": lambda share: ["ARM=route", *EXCLUSIVE, repeats(share)],
    "trusted": lambda share: ["ARM=trusted"],
}
EXCLUSIVE = ("UNLABELED_UPDATES_FORGET=0.0", "RETAIN_SCALE_ON_FORGET=0.0")


def repeats(share: float) -> str:
    # of half of the hacks once is enough; also of "filter", so that both train on the same batches
    return f"LABELED_FORGET_REPEATS={1 if share >= 0.5 else round(1 / share)}"


NEVER_SEEN = ("filter", 1.0)
SHARES = (0.5, 0.25, 0.1)
ALL = ("filter", "route", "recipe")
LORA, SEEDS = ("lora",), (0, 1, 2)
DOSE = 106  # hacks among the 422 problems
PRESETS = {  # blocks of (adapter types, seeds, methods, shares labelled)
    "cpu": [(LORA, (0,), ("filter",), (1.0,)), (LORA, (0,), ("filter", "recipe"), (0.5,))],
    "published": [
        (LORA, SEEDS, ("filter",), (1.0,)),
        (LORA, SEEDS, ("filter", "recipe"), SHARES),
        (LORA, SEEDS, ("trusted",), (0.0,)),
    ],
    "gpu": [
        (("lora", "mlp"), range(5), ALL, (0.05, *SHARES, 1.0)),
        (("lora", "mlp"), range(5), ("none", "trusted"), (0.0,)),
    ],
}
check_choice("PRESET", PRESET, PRESETS)
script = HERE / "experiment_arms.py"
cells = make_cells(script, "LABELED_FORGET_PERCENTAGE", METHODS, PRESETS[PRESET], COMMON)

# %% Running what is missing
output = HERE / OUTPUT
store = Store(output.with_suffix(".jsonl"))
failed = run_cells(cells, store, HERE / "results" / "evidence_logs", WORKERS)

# %% The report
MEASURES = [
    Measure("hardcoded_rate", "hardcoded", rate=True),
    Measure("constant_rate", "constant", rate=True),
    Measure("all_tests_rate", "solved", rate=True),
    Measure("correct_loss", "loss, correct", rate=False),
    Measure("hacked_loss", "loss, hacked", rate=False),
]
evidence = Evidence(cells, store, "forget_ablated", MEASURES)
claims = []
for kind in evidence.adapter_types:
    for share in sorted(SHARES):
        routing, deleting = ("recipe", share), ("filter", share)
        which = f"{kind}, {100 * share:g}% labelled"
        claims += [
            Claim(
                f"{which}: routing leaves less hardcoded than deleting",
                evidence.difference("hardcoded_rate", routing, deleting, kind),
            ),
            Claim(
                f"{which}: and less that is constant",
                evidence.difference("constant_rate", routing, deleting, kind),
            ),
            Claim(
                f"{which}: it solves at least 90% of what never having seen hacks solves",
                evidence.relative("all_tests_rate", routing, NEVER_SEEN, kind),
                bound=-0.1,
                above=True,
            ),
        ]
report = f"""# mbpp: the evidence

Made by `uv run --directory mbpp python evidence.py PRESET={PRESET} OUTPUT={OUTPUT}`.
SmolLM2-135M-Instruct is trained on programming problems of which a quarter are solved by a hack; a share of
those is labelled.
- *filter* deletes what is labelled. At 100% it has never seen a hack.
- *recipe* routes it: forget learns from labels alone, with retain ablated, is active in what is unlabelled,
  and is ablated afterwards. Half of the correct solutions are labelled retain and train with forget ablated.
- *trusted* is trained on that half alone.

All train from the same base on the same problems for the same number of steps. What is kept has the same
capacity, one adapter. Test split: solution templates that training never met. Means over seeds and problems,
95% intervals over seeds and templates.

![What is left and what is solved over the share labelled]({output.name}.png)

## Claims

{claims_table(claims)}

## Distance to never having seen a hack

Paired by seed and problem. A loss on hacked solutions above 0 is suppression, below 0 leakage. The last
column is the number of hacks that plain training needs for the same loss on them.

{distances_table(evidence, NEVER_SEEN, ("recipe",), "hacked_loss", dose=DOSE)}

## Everything measured

{measures_table(evidence)}

{left_out(evidence)}

{output.name}.jsonl has the values of every problem, {output.name}.csv a row a cell.
"""
figure_over_labels(evidence, ("filter", "recipe"), NEVER_SEEN, output.with_suffix(".png"))
publish(evidence, output, report, failed)
