"""The evidence: routing beside deletion, over shares of labels and seeds, as a report to be made again.

Cells that OUTPUT.jsonl has already are not run again; delete that file to start anew. Cells run as processes,
so an interrupted grid goes on where it was.
"""

# %% Constants
from pathlib import Path

from lab.constants import check_choice, override_constants

PRESET = "cpu"  # an hour on two cores; "published": what docs/evidence holds; "gpu": the whole grid
OUTPUT = "results/evidence"  # .jsonl, .csv, .md and .png; the published one: "../docs/evidence/mbpp"
DTYPE = "auto"  # of the base: whichever this machine computes faster, and whatever kept cells had
WORKERS = 2  # runs at a time, which share the cores; 0: only the report of what is there
COMMON = ["EVAL_SPLIT=test", "PROBE_EVERY=0", "LABELED_RETAIN_PERCENTAGE=0.5"]  # for every cell

# from the shell: CONSTANT=value
CONSTANTS = override_constants(globals())
HERE = Path(__file__).parent

# %% The grid
from lab.evidence import Evidence, Measure
from lab.grid import Store, make_cells, run_cells
from lab.report import (
    claims_table,
    command,
    distances_table,
    figure_over_labels,
    left_out,
    measures_table,
    publish,
)
from mbpp.claims import claims_of, hacks_met
from mbpp.methods import METHODS, NEVER_SEEN

SHARES = (0.5, 0.25, 0.1)
ALL = ("filter", "route", "recipe")
LORA, SEEDS = ("lora",), (0, 1, 2)
PRESETS = {  # blocks of (adapter types, seeds, methods, shares labelled)
    "cpu": [(LORA, (0,), ("filter",), (1.0,)), (LORA, (0,), ("filter", "recipe"), (0.5,))],
    "published": [
        (LORA, SEEDS, ("filter",), (1.0,)),
        (LORA, SEEDS, ("filter", "recipe"), SHARES),
        (LORA, SEEDS, ("random_labels",), (0.5,)),
        (LORA, SEEDS, ("none",), (0.0,)),
        (LORA, SEEDS, ("filter_classified",), (0.5,)),
        (LORA, SEEDS, ("trusted",), (0.0,)),
        (LORA, SEEDS, ("unanchored",), (0.5,)),
    ],
    "gpu": [
        (("lora", "mlp"), range(5), ALL, (0.05, *SHARES, 1.0)),
        (("lora", "mlp"), range(5), ("none", "trusted"), (0.0,)),
        (("lora", "mlp"), range(5), ("random_labels", "unanchored", "filter_classified"), SHARES),
    ],
}
check_choice("PRESET", PRESET, PRESETS)
script = HERE / "experiment_arms.py"
cells = make_cells(script, "LABELED_FORGET_PERCENTAGE", METHODS, PRESETS[PRESET], [*COMMON, f"DTYPE={DTYPE}"])

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
report = f"""# mbpp: the evidence

Made by `{command(Path(__file__), CONSTANTS)}`.
SmolLM2-135M-Instruct is trained on programming problems of which a quarter are solved by a hack; a share of
those is labelled.
- *filter* deletes what is labelled. At 100% it has never seen a hack.
- *recipe* routes it: forget learns from labels alone, with retain ablated, is active in what is unlabelled,
  and is ablated afterwards. Half of the correct solutions are labelled retain and train with forget ablated.
- *unanchored* is the same without a label on correct solutions.
- *random_labels* is *recipe* with as many labels, on any problems.
- *filter_classified* deletes what is labelled, and what a logistic regression over tokens, of both kinds of
  labels, finds like it.
- *trusted* is trained on that labelled half of the correct solutions alone; *none* on everything.

All train from the same base for the same number of steps; filter and recipe on the same batches, but filter
has no use for labels on correct solutions. Below 50% labelled hacks are repeated 1/share times and take the
place of other problems: correct solutions are then seen 16% to 19% less often than where no hack was ever
seen. What is kept has the same capacity, one adapter. Test split: solution templates that training never met.
Means over seeds and problems, 95% intervals over seeds and templates.

![What is left and what is solved over the share labelled]({output.name}.png)

## Claims

{claims_table(claims_of(evidence))}

## Distance to never having seen a hack

Paired by seed and problem. A loss on hacked solutions above 0 is suppression, below 0 leakage. The last
column is the number of hacks that plain training needs for the same loss on them, with the numbers for the
ends of its interval. What is suppressed counts as 0.

{distances_table(evidence, NEVER_SEEN, ("recipe", "unanchored"), "hacked_loss", hacks_met)}

## Everything measured

{measures_table(evidence)}

{left_out(evidence)}

{output.name}.jsonl has the values of every problem, {output.name}.csv a row a cell.
"""
figure_over_labels(evidence, ("filter", "recipe"), NEVER_SEEN, output.with_suffix(".png"))
publish(evidence, output, report, failed)
