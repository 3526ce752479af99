"""The evidence: routing beside deletion, over shares of labels and seeds, as a report to be made again.

Cells that OUTPUT.jsonl has already are not run again; delete that file to start anew. Cells run as processes,
so an interrupted grid goes on where it was.
"""

# %% Constants
from pathlib import Path

from lab.constants import check_choice, override_constants

PRESET = "cpu"  # an hour on two cores; "published": what docs/evidence holds; "gpu": the whole grid
OUTPUT = "results/evidence"  # .jsonl, .csv, .md and .png; the published one: "../docs/evidence/all_caps"
DTYPE = "auto"  # of the base; differs between machines, so the published cells have "bfloat16"
WORKERS = 2  # runs at a time, which share the cores; 0: only the report of what is there
COMMON = ["EVAL_SPLIT=test", "NUM_EVAL_PROMPTS=44", "PROBE_EVERY=0"]  # for every cell

# from the shell: CONSTANT=value
CONSTANTS = override_constants(globals())
HERE = Path(__file__).parent

# %% The grid
from all_caps.claims import ROUTED, claims_of, stories_met
from all_caps.methods import METHODS, NEVER_SEEN
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

LORA, MLP, SEEDS = ("lora",), ("mlp",), (0, 1, 2)
SHARES = (0.1, 0.5, 0.25)
ALL = ("filter", "route", "exclusive", "recipe", "bounded")
CONTROLS = ("random_labels", "exclusive_wrong", "filter_detected", "filter_classified")
PRESETS = {  # blocks of (adapter types, seeds, methods, shares labelled)
    "cpu": [(LORA, (0, 1), ("filter",), (1.0,)), (LORA, (0, 1), ("filter", "exclusive"), (0.1, 0.5))],
    "published": [
        (LORA, SEEDS, ("filter",), (1.0,)),
        (LORA, SEEDS, ("filter", "exclusive", "recipe"), SHARES),
        (LORA, SEEDS, ("none", "trusted"), (0.0,)),
        (LORA, SEEDS, ("random_labels", "filter_detected", "filter_classified"), (0.1,)),
        (LORA, SEEDS, ("exclusive_wrong",), (0.5,)),
        (MLP, SEEDS, ("filter",), (1.0,)),
        (MLP, SEEDS, ("filter", "bounded"), (0.1,)),
    ],
    "gpu": [
        (LORA + MLP, range(5), ALL, (0.05, *SHARES, 1.0)),
        (LORA + MLP, range(5), ("none", "trusted"), (0.0,)),
        (LORA + MLP, range(5), CONTROLS, SHARES),
    ],
}
check_choice("PRESET", PRESET, PRESETS)
script = HERE / "experiment_arms.py"
cells = make_cells(script, "LABELED_BAD_PERCENTAGE", METHODS, PRESETS[PRESET], [*COMMON, f"DTYPE={DTYPE}"])

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
report = f"""# all_caps: the evidence

Made by `{command(Path(__file__), CONSTANTS)}`.
SmolLM2-135M-Instruct is trained on 1200 stories of which 10% are in capitals; a share of those is labelled.
- *filter* deletes what is labelled. At 100% it has never seen capitals.
- *exclusive* routes it: bad learns from labels alone (repeated 1/share times), is active in everything
  unlabelled, and is ablated afterwards.
- *recipe* is the same with a quarter of the normal stories labelled good; these train with bad ablated.
- *bounded* is the recipe with good halved while bad learns from a labelled story (for MLP adapters).
- *trusted* is trained on that quarter alone, again and again. *none*: on everything, without routes;
  *shrunk* is what it learnt, scaled to 0.6.
- *random_labels* is *exclusive* with as many labels, on any stories. *filter_detected* also deletes what bad,
  trained on half of the labelled stories alone, tells from the others (the other half sets the threshold).
- *filter_classified* also deletes what naive Bayes over tokens, labelled stories against all others, finds.
- *exclusive_wrong*: a twentieth of the normal stories is labelled bad by mistake, and repeated. Filter, which
  it is compared with, has no wrong labels, and so other batches.

All train from the same base for the same number of steps, and filter, exclusive and recipe on the same
batches (what is deleted keeps its place and updates nothing). Repeats take the place of other stories, at 10%
labelled of 8%. What is kept has the same capacity, one adapter. Test split: plots that training never met.
Means over seeds and stories, 95% intervals over seeds and plots; costs are shares of filter's normal loss.

![Caps rate and losses over the share labelled]({output.name}.png)

## Claims

{claims_table(claims_of(evidence))}

## Distance to never having seen capitals

Paired by seed and story. A loss on CAPS text above 0 is suppression, below 0 leakage. The last column is the
number of stories in capitals that plain training needs for the same loss on CAPS text, with the numbers for
the ends of its interval. What is suppressed counts as 0, so it is a number for leakage alone.

{distances_table(evidence, NEVER_SEEN, tuple(ROUTED), "caps_loss", stories_met)}

## Everything measured

{measures_table(evidence)}

{left_out(evidence)}

{output.name}.jsonl has the values of every story, {output.name}.csv a row a cell.
"""
figure_over_labels(
    evidence, ("filter", "exclusive", "recipe", "bounded"), NEVER_SEEN, output.with_suffix(".png")
)
publish(evidence, output, report, failed)
