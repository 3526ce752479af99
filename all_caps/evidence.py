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
from lab.evidence import Evidence, Measure
from lab.grid import Store, make_cells, run_cells
from lab.report import Claim, claims_table, left_out, measures_table, publish

# "recipe" was chosen on validation (LOG.md): bad learns from labels alone, labelled stories are repeated
# until they are as many as the behaviour has, and a quarter of the normal stories is labelled good.
# "trusted" is trained on that quarter alone.
METHODS = {  # name -> share labelled -> constants of experiment_arms.py
    "none": lambda share: ["ARM=none"],
    "filter": lambda share: ["ARM=filter", repeats(share)],
    "route": lambda share: ["ARM=route", "UNLABELED_UPDATES_BAD=1.0"],
    "exclusive": lambda share: ["ARM=route", "UNLABELED_UPDATES_BAD=0.0", repeats(share)],
    "recipe": lambda share: ["ARM=route", "UNLABELED_UPDATES_BAD=0.0", repeats(share), GOOD],
    "trusted": lambda share: ["ARM=trusted", GOOD],
}
GOOD = "LABELED_GOOD_PERCENTAGE=0.25"


def repeats(share: float) -> str:
    # also of "filter", which learns nothing from them: batches and unlabelled stories are then the same
    return f"LABELED_BAD_REPEATS={round(1 / share)}"


NEVER_SEEN = ("filter", 1.0)
SHARES = (0.1, 0.5, 0.25)
ALL = ("filter", "route", "exclusive", "recipe")
PRESETS = {  # (adapter types, seeds, [(methods, shares), ...])
    "cpu": (("lora",), (0, 1), [(("filter",), (1.0,)), (("filter", "exclusive"), (0.1, 0.5))]),
    "published": (
        ("lora",),
        (0, 1, 2),
        [(("filter",), (1.0,)), (("filter", "exclusive", "recipe"), SHARES), (("trusted",), (0.0,))],
    ),
    "gpu": (("lora", "mlp"), range(5), [(ALL, (0.05, *SHARES, 1.0)), (("none", "trusted"), (0.0,))]),
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
for kind in PRESETS[PRESET][0]:
    for share in sorted(SHARES):
        which, deleting = f"{kind}, {100 * share:g}% labelled", ("filter", share)
        for name, method in (("exclusive", "with the same labels"), ("recipe", "with good labels, too,")):
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
        claims.append(
            Claim(
                f"{which}: the recipe has a lower normal loss than training on the good labels alone",
                evidence.relative("normal_loss", ("recipe", share), ("trusted", 0.0), kind),
            )
        )
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

## Everything measured

{measures_table(evidence)}

{left_out(evidence)}

{output.name}.jsonl has the values of every story, {output.name}.csv a row a cell.
"""
publish(evidence, output, report, ("filter", "exclusive", "recipe"), PRESETS[PRESET][0], NEVER_SEEN, failed)
