"""Relearning, as a report: how many stories in capitals bring capitals back?

Curves start from the checkpoints of evidence.py's cells, which are trained here if they are not there yet.
Curves that OUTPUT.jsonl has already are not made again.
"""

# %% Constants
from pathlib import Path

from lab.constants import override_constants

LABELED = 0.25  # share of the capitals that is labelled
METHODS_COMPARED = ["filter", "exclusive", "recipe"]  # beside never having seen capitals, and the base model
LEARNERS = ["good", "fresh"]  # see experiment_relearn.py
SEEDS = [0, 1, 2]
OUTPUT = "results/relearning"  # .jsonl, .csv, .md, .png; published: "../docs/evidence/all_caps_relearning"
DTYPE = "auto"  # of the base; differs between machines, so the published curves have "bfloat16"
WORKERS = 2  # runs at a time, which share the cores; 0: only the report of what is there
COMMON = ["EVAL_SPLIT=test", "NUM_EVAL_PROMPTS=44", "PROBE_EVERY=0"]  # for every checkpoint
MARGIN = 0.05  # a higher mean rate that still counts as no higher
NUM_EXAMPLES = 64  # stories in capitals that bring them back, one a step
COMMON_RELEARNING = []  # more constants of experiment_relearn.py, for every curve

# from the shell: CONSTANT=value
CONSTANTS = override_constants(globals())
HERE = Path(__file__).parent

# %% The checkpoints, and the curves that start from them
from all_caps.methods import METHODS, NEVER_SEEN
from lab.evidence import Evidence, Measure
from lab.grid import Cell, Store, make_cells, run_cells
from lab.relearning import doublings, plot_relearning
from lab.report import Claim, claims_table, command, left_out, measures_table, publish
from lab.sweeps import Job, run_jobs

logs = HERE / "results" / "relearning_logs"
lora, (oracle, everything) = ("lora",), NEVER_SEEN
blocks = [(lora, SEEDS, METHODS_COMPARED, (LABELED,)), (lora, SEEDS, (oracle,), (everything,))]
starts = make_cells(
    HERE / "experiment_arms.py", "LABELED_BAD_PERCENTAGE", METHODS, blocks, [*COMMON, f"DTYPE={DTYPE}"]
)
# the base model comes with any checkpoint
base = [("base, fresh", "base", "fresh")] if "fresh" in LEARNERS else []
cells, common = [], (f"NUM_EXAMPLES={NUM_EXAMPLES}", "SPLIT=test", *COMMON_RELEARNING)
for start in starts:
    never = (start.method, start.labeled) == NEVER_SEEN
    name = "never seen" if never else start.method
    ways = [(f"{name}, {learner}", "kept", learner) for learner in LEARNERS]
    for method, where, learner in [*ways, *(base if never else ())]:
        plain = method.replace(", ", "_").replace(" ", "_")
        run = f"relearn_{plain}_{100 * start.labeled:g}_seed{start.seed}"
        constants = [f"CHECKPOINT=checkpoints/{start.job.run}", f"START={where}", f"LEARNER={learner}"]
        # a curve of another start is another curve
        constants += [f"TRAINED_WITH={list(start.job.constants)}", f"SEED={start.seed}"]
        job = Job(run, HERE / "experiment_relearn.py", (*constants, *common))
        cells.append(Cell(method, start.labeled, "lora", start.seed, job))

# %% Running what is missing
output = HERE / OUTPUT
store = Store(output.with_suffix(".jsonl"))
if WORKERS:
    missing = {cell.job.constants[0].split("/")[1] for cell in cells if not store.find(cell)}
    run_jobs([start.job for start in starts if start.job.run in missing], logs, WORKERS)
failed = run_cells(cells, store, logs, WORKERS)

# %% The report
seen = doublings(NUM_EXAMPLES)
MEASURES = [
    Measure("area", "area under the curve", rate=False),
    Measure("at_n", "mean rate after n examples", rate=False),
    Measure("at_2n", "after 2n", rate=False),
    *(Measure(f"rate_{number}", f"rate after {number}", rate=True) for number in seen),
]
evidence = Evidence(cells, store, "relearnt", MEASURES)
panels: dict[str, dict] = {learner: {} for learner in LEARNERS}
for cell in cells:
    if evidence.interval("area", cell.method, cell.labeled, "lora"):
        name, learner = cell.method.split(", ")
        panels[learner][name] = {
            number: evidence.interval(f"rate_{number}", cell.method, cell.labeled, "lora") for number in seen
        }
claims = []
for learner in LEARNERS:
    for name in METHODS_COMPARED:
        method, never_seen = (f"{name}, {learner}", LABELED), (f"never seen, {learner}", everything)
        claims += [
            Claim(
                f"{method[0]}: it takes at least half as many examples as where they were never seen",
                evidence.difference("at_n", method, never_seen, "lora", minus="at_2n"),
                bound=MARGIN,
            ),
            Claim(
                f"{method[0]}: it takes at least as many",
                evidence.difference("at_n", method, never_seen, "lora"),
                bound=MARGIN,
            ),
        ]
report = f"""# all_caps: relearning

Made by `{command(Path(__file__), CONSTANTS)}`.
What is kept (bad ablated) is trained on stories in capitals that it has not met, one a step: its good adapter
("good"), or a fresh one in bad's place ("fresh"). The rate is that of capitals after an upper-case prefix,
test split. The area is the mean rate over log2(1 + examples), from 0 to {NUM_EXAMPLES}. Half as many
examples: the mean rate after n = 1, 2, 4, ... examples is compared with that of the other after 2n. A mean
rate that is higher by up to {MARGIN:g} counts as no difference. Where deleting left the behaviour in, there
is nothing to bring back: such a curve starts at the top.

![Caps rate over examples of the behaviour]({output.name}.png)

## Claims

{claims_table(claims)}

## Everything measured

{measures_table(evidence)}

{left_out(evidence)}

{output.name}.jsonl has the outcome of every prompt, {output.name}.csv a row a curve.
"""
plot_relearning(panels, output.with_suffix(".png"))
publish(evidence, output, report, failed)
