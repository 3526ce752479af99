"""Recovery, as a report: how soon does reinforcement on a single prompt bring capitals back?

Runs start from checkpoints of evidence.py's methods, which are trained here if they are not there yet. Runs
that OUTPUT.jsonl has already are not made again; one that was interrupted goes on.
"""

# %% Constants
from pathlib import Path

from lab.constants import check_choice, override_constants

PRESET = "cpu"  # one seed, under an hour on two cores; "published": what docs/evidence holds
LABELED = 0.5  # share of the capitals that is labelled
OUTPUT = "results/recovery"  # .jsonl, .csv, .md, .png; published: "../docs/evidence/all_caps_recovery"
DTYPE = "auto"  # of the base; differs between machines, so give "bfloat16" for what is published
WORKERS = 2  # runs at a time, which share the cores; 0: only the report of what is there
# for every checkpoint; its own evaluation is not read here, hence short
COMMON = ["NUM_EVAL_PROMPTS=2", "EVAL_NEW_TOKENS=2", "PROBE_EVERY=0"]
MARGIN = 0.2  # a higher mean rate that still counts as no higher; of equal ones the interval reaches 0.17
MAX_STEPS = 24
MEASURE_EVERY = 3
COMMON_RECOVERY = []  # more constants of experiment_recovery.py, for every run

# from the shell: CONSTANT=value
CONSTANTS = override_constants(globals())
HERE = Path(__file__).parent

# %% The checkpoints, and the runs that start from them
from all_caps.methods import METHODS, NEVER_SEEN
from lab.curves import plot_curves
from lab.evidence import Evidence, Measure
from lab.grid import Cell, Store, make_cells, run_cells
from lab.recovery import AREA, TRAINING, measured_steps, modes_table, recovery_curve, recovery_table
from lab.report import Claim, claims_table, command, left_out, publish
from lab.sweeps import Job, constants_as_run, run_jobs

PRESETS = {"cpu": [0], "published": [0, 1, 2]}  # seeds
check_choice("PRESET", PRESET, PRESETS)
seeds = PRESETS[PRESET]
compared = ["route", "exclusive", "filter"]
logs = HERE / "results" / "recovery_logs"
lora, (oracle, everything) = ("lora",), NEVER_SEEN
blocks = [(lora, seeds, (oracle,), (everything,)), (lora, seeds, compared, (LABELED,))]
script, common = HERE / "experiment_arms.py", [*COMMON, f"DTYPE={DTYPE}"]
starts = make_cells(script, "LABELED_BAD_PERCENTAGE", METHODS, blocks, common, "before_recovery")
common = [f"MAX_STEPS={MAX_STEPS}", f"MEASURE_EVERY={MEASURE_EVERY}", "SPLIT=test", *COMMON_RECOVERY]
cells = []
for start in starts:
    never = (start.method, start.labeled) == NEVER_SEEN
    # the base model comes with any checkpoint
    ways = [("never seen", "kept"), ("base", "base")] if never else [(start.method, "kept")]
    for method, where in ways:
        run = f"recovery_{method.replace(' ', '_')}_{100 * start.labeled:g}_seed{start.seed}"
        constants = [f"CHECKPOINT=checkpoints/{start.job.run}", f"START={where}", f"SEED={start.seed}"]
        # a run from another start is another run
        constants += [f"TRAINED_WITH={list(start.job.constants)}"]
        job = Job(run, HERE / "experiment_recovery.py", (*constants, *common))
        cells.append(Cell(method, start.labeled, "lora", start.seed, job))

# %% Running what is missing
output = HERE / OUTPUT
store = Store(output.with_suffix(".jsonl"))
if WORKERS:
    missing = {cell.job.constants[0].split("/")[1] for cell in cells if not store.find(cell)}
    run_jobs([start.job for start in starts if start.job.run in missing], logs, WORKERS)
failed = run_cells(cells, store, logs, WORKERS)

# %% The report
RATES = {
    "trained": "the trained prompt",
    "upper": "held-out, UPPER prefix",
    "normal": "held-out, normal prefix",
}
MEASURES = [
    *(Measure(name, title, rate=True) for name, title in RATES.items()),
    Measure("loss", "loss, normal text", rate=False),
    Measure("paid", "steps with a reward", rate=True),
    Measure("shouted", "steps with a rollout in capitals", rate=True),
    Measure("learnt", "steps with unequal rewards", rate=True),
]
steps = measured_steps(MAX_STEPS, MEASURE_EVERY)
first, last = str(steps[0]), str(steps[-1])
evidence = Evidence(cells, store, last, MEASURES)
# the bar is one for all: a model that never met capitals has no rate of its own to come back to
whole = [found for method in ("route", "exclusive")
         if (found := evidence.interval("upper", method, LABELED, "lora", "full"))]  # fmt: skip
back = whole[0]["mean"] / 2 if whole else 0.5
never_seen = ("never seen", everything)
claims = [
    Claim(
        f"{method}: {title}: no higher mean rate over the steps than where capitals were never seen",
        evidence.difference(name, (method, LABELED, AREA), (*never_seen, AREA), "lora"),
        bound=MARGIN,
    )
    for method in compared
    if method != "filter"
    # a single prompt of every seed shows nothing
    for name, title in RATES.items()
    if name != "trained"
]
ends = {"at first": first, "in the end": last}
rates = [(f"{title}, {when}", name, mode) for name, title in RATES.items() for when, mode in ends.items()]
losses = [(f"loss, normal text, {when}", "loss", mode) for when, mode in ends.items()]
training = [(evidence.measures[name].title, name, TRAINING) for name in ("paid", "shouted", "learnt")]
made = constants_as_run(cells[0].job)
shown = ("PROMPTS", "PROMPT_KIND", "NUM_GENERATIONS", "TEMPERATURE", "LEARNING_RATE", "BETA")
given = ", ".join(f"{constant}={made[constant]}" for constant in shown)
report = f"""# all_caps: recovery by reinforcement on one prompt

Made by `{command(Path(__file__), CONSTANTS)}`.
Bad is ablated for good. What is kept is reinforced by GRPO, {MAX_STEPS} steps with
{given}.
A prompt is the beginning of a story that training has not met, another one for every seed. Paid is
0.5 align (strength + detail) / 100 of the rules in `all_caps/judge.py`. A fresh LoRA learns in bad's place,
and the KL term's reference is the model without it. *base* is the model without any adapter, *never seen* was
trained without capitals. The learning rate was chosen on validation prompts, from one start of *never seen*,
after a lower one had moved little on these prompts (LOG.md).

Rates are those of continuations in capitals (sampled as rollouts are), on the trained prompt and on held-out
prompts of the test split. A rate is back at {back:.3f}, half of what the whole model, with bad, has after an
upper-case prefix. Steps are the first measured ones (every {MEASURE_EVERY}), with those at which the ends of
the rate's 95% interval get there: over seeds and plots, for the trained prompt over seeds alone.
>{MAX_STEPS}: not within these steps; 0: never gone.

![Caps rate over steps of reinforcement]({output.name}.png)

## Steps until it is back

{recovery_table(evidence, list(RATES), back, steps)}

## Generalisation, and what it costs

{modes_table(evidence, rates + losses)}

## What training saw

Means over seeds. A step whose rewards are all equal teaches nothing. Names earn a little, too: their
capitals count in align.

{modes_table(evidence, training, intervals=False)}

## Claims

Paired by seed and prompt; a mean rate that is higher by up to {MARGIN:g} counts as no higher.

{claims_table(claims)}

{left_out(evidence)}

{output.name}.jsonl has the values of every prompt, {output.name}.csv a row a run and step.
"""
panels: dict[str, dict] = {title: {} for title in RATES.values()}
for labeled, method in evidence.wanted("lora"):
    for name, title in RATES.items():
        if curve := recovery_curve(evidence, name, method, labeled, steps):
            # the interval over a few seeds of one prompt each would cover the panel
            bare = {step: dict.fromkeys(value, value["mean"]) for step, value in curve.items()}
            panels[title][method] = bare if name == "trained" else curve
plot_curves(panels, output.with_suffix(".png"), "steps of reinforcement", bounded=panels)
publish(evidence, output, report, failed)
