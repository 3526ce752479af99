"""The evidence: routing beside deletion, over shares of labels and seeds, as a report to be made again.

Cells that OUTPUT.jsonl has already are not run again; delete that file to start anew. Cells run as processes,
so an interrupted grid goes on where it was.
"""

# %% Constants
from pathlib import Path

from lab.constants import check_choice, override_constants

PRESET = "cpu"  # an hour on two cores; "published": what docs/evidence holds; "gpu": the whole grid
OUTPUT = "results/evidence"  # .jsonl, .csv, .md and .png; the published one: "../docs/evidence/all_caps"
WORKERS = 2  # runs at a time, which share the cores; 0: only the report of what is there
COMMON = ["EVAL_SPLIT=test", "NUM_EVAL_PROMPTS=44", "PROBE_EVERY=0"]  # for every cell

# from the shell: CONSTANT=value
CONSTANTS = override_constants(globals())
HERE = Path(__file__).parent

# %% The grid
from all_caps.methods import METHODS, NEVER_SEEN
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

LORA, MLP, SEEDS = ("lora",), ("mlp",), (0, 1, 2)
SHARES = (0.1, 0.5, 0.25)
ALL = ("filter", "route", "exclusive", "recipe", "bounded")
ROUTED = ("exclusive", "recipe", "bounded")
CONTROLS = ("none", "random_labels", "filter_wrong", "exclusive_wrong")
PRESETS = {  # blocks of (adapter types, seeds, methods, shares labelled)
    "cpu": [(LORA, (0, 1), ("filter",), (1.0,)), (LORA, (0, 1), ("filter", "exclusive"), (0.1, 0.5))],
    "published": [
        (LORA, SEEDS, ("filter",), (1.0,)),
        (LORA, SEEDS, ("filter", "exclusive", "recipe"), SHARES),
        (LORA, SEEDS, ("trusted", "none"), (0.0,)),
        (LORA, SEEDS, ("random_labels",), (0.1,)),
        (LORA, SEEDS, ("filter_wrong", "exclusive_wrong"), (0.5,)),
        (MLP, SEEDS, ("filter",), (1.0,)),
        (MLP, SEEDS, ("filter", "bounded"), (0.1,)),
    ],
    "gpu": [
        (LORA + MLP, range(5), ALL, (0.05, *SHARES, 1.0)),
        (LORA + MLP, range(5), ("none", "trusted"), (0.0,)),
        (LORA + MLP, range(5), CONTROLS[1:], SHARES),
    ],
}
check_choice("PRESET", PRESET, PRESETS)
script = HERE / "experiment_arms.py"
cells = make_cells(script, "LABELED_BAD_PERCENTAGE", METHODS, PRESETS[PRESET], COMMON)

# %% Running what is missing
output = HERE / OUTPUT
store = Store(output.with_suffix(".jsonl"))
failed = run_cells(cells, store, HERE / "results" / "evidence_logs", WORKERS)

# %% The report
MEASURES = [
    Measure("caps_rate", "caps rate after an UPPER prefix", rate=True),
    Measure("normal_loss", "loss, normal text", rate=False),
    Measure("caps_loss", "loss, CAPS text", rate=False),
]
evidence = Evidence(cells, store, "bad_ablated", MEASURES)
claims = []
for kind, share, name, method in [
    ("lora", share, name, method)
    for share in sorted(SHARES)
    for name, method in (("exclusive", "with the same labels"), ("recipe", "with good labels, too,"))
] + [("mlp", 0.1, "bounded", "with good labels, too, bad learning with good halved,")]:
    which, deleting = f"{kind}, {100 * share:g}% labelled", ("filter", share)
    claims += [
        Claim(
            f"{which}: routing {method} leaves a lower caps rate than deleting",
            evidence.difference("caps_rate", (name, share), deleting, kind),
        ),
        Claim(
            f"{which}: and costs less than 2% of normal loss",
            evidence.relative("normal_loss", (name, share), deleting, kind),
            bound=0.02,
        ),
    ]
exclusive, recipe, none = ("exclusive", 0.1), ("recipe", 0.1), ("none", 0.0)
claims += [
    Claim(
        "lora, 10% labelled: the recipe has a lower normal loss than training on the good labels alone",
        evidence.relative("normal_loss", recipe, ("trusted", 0.0), "lora"),
    ),
    Claim(
        "lora, 10% labelled: routing leaves a lower caps rate than routing with random labels",
        evidence.difference("caps_rate", exclusive, ("random_labels", 0.1), "lora"),
    ),
    Claim(
        "lora, 10% labelled: it leaves a lower caps rate than plain training that is scaled down",
        evidence.difference("caps_rate", exclusive, (*none, "shrunk"), "lora"),
    ),
    Claim(
        "lora, 10% labelled: and has a lower normal loss",
        evidence.relative("normal_loss", exclusive, (*none, "shrunk"), "lora"),
    ),
    Claim(
        "lora, 50% labelled, and 5% of the normal by mistake: routing leaves a lower caps rate than deleting",
        evidence.difference("caps_rate", ("exclusive_wrong", 0.5), ("filter_wrong", 0.5), "lora"),
    ),
    Claim(
        "lora, 50% labelled, and 5% of the normal by mistake: and costs less than 2% of normal loss",
        evidence.relative("normal_loss", ("exclusive_wrong", 0.5), ("filter_wrong", 0.5), "lora"),
        bound=0.02,
    ),
]
report = f"""# all_caps: the evidence

Made by `uv run --directory all_caps python evidence.py PRESET={PRESET} OUTPUT={OUTPUT}`.
SmolLM2-135M-Instruct is trained on 1200 stories of which 10% are in capitals; a share of those is labelled.
- *filter* deletes what is labelled. At 100% it has never seen capitals.
- *exclusive* routes it: bad learns from labels alone (repeated 1/share times), is active in everything
  unlabelled, and is ablated afterwards.
- *recipe* is the same with a quarter of the normal stories labelled good; these train with bad ablated.
- *trusted* is trained on that quarter alone, again and again.

All train from the same base for the same number of steps, and filter, exclusive and recipe on the same
batches (what is deleted keeps its place and updates nothing). Repeats take the place of other stories, at 10%
labelled of 8%. What is kept has the same capacity, one adapter. Test split: plots that training never met.
Means over seeds and stories, 95% intervals over seeds and plots; costs are shares of filter's normal loss.

![Caps rate and losses over the share labelled]({output.name}.png)

## Claims

{claims_table(claims)}

## Distance to never having seen capitals

Paired by seed and story. A loss on CAPS text above 0 is suppression, below 0 leakage. The last column is the
number of stories in capitals that plain training needs for the same loss on CAPS text.

{distances_table(evidence, NEVER_SEEN, ROUTED, "caps_loss", dose=120)}

## Everything measured

{measures_table(evidence)}

{left_out(evidence)}

{output.name}.jsonl has the values of every story, {output.name}.csv a row a cell.
"""
figure_over_labels(
    evidence, ("filter", "exclusive", "recipe", "bounded"), NEVER_SEEN, output.with_suffix(".png")
)
publish(evidence, output, report, failed)
