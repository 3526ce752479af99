"""A checkpoint's behaviour (does it write capitals?) and its utility (what else can it do?), mode by mode.

Utility is measured with lm-eval: standard tasks by name where the Hub can be reached, and a task of this
project's own, "held_out_stories", without a network: which of four continuations belongs to a story?

Run the cells top to bottom, or `uv run python evaluate.py [CONSTANT=value ...]` in this folder.
"""

# %% Constants
from pathlib import Path

from lab.constants import check_choice, override_constants

CHECKPOINT = "checkpoints/route_lora32+32_caps10_labeled50_seed0"
MODE = "both"  # "behaviour", "utility" or "both"
EVAL_MODES = [
    (1.0, 1.0, "full"),
    (1.0, 0.0, "bad_ablated"),
    (0.0, 0.0, "base"),
]  # (good scale, bad scale, name)
TASKS = ["held_out_stories"]  # and of lm-eval, say ["hellaswag", "arc_easy", "piqa"]
NUM_DOCUMENTS = 100  # of each task at most; 0: all
STORIES = "embedded:stories"
SPLIT = "test"  # "validation" for what is still to be chosen
NUM_PROMPTS = 44  # stories whose prefixes are continued, and whose losses are measured
NUM_GENERATIONS = 1
MAX_NEW_TOKENS = 24
TEMPERATURE = 0.7
EVAL_SEQ_LENGTH = 128
EVAL_BATCH_SIZE = 16  # of the tasks
SEED = 0

CONSTANTS = override_constants(globals())  # from the shell: CONSTANT=value
HERE = Path(__file__).parent

# %% Setup: what may be missing comes before the model
from all_caps.choices import TASK, continuation_choices
from all_caps.stories import load_stories
from all_caps.task import COLUMNS, measure
from lab.errors import BadInput
from lab.files import write_json
from lab.modes import mode_intervals
from lab.plots import plot_modes
from lab.runs import refuse_other_results
from lab.tables import Column, format_table
from routing.generation import routes_of
from routing.merging import load_run
from routing.utility import check_lm_eval, choice_task, load_tasks, run_tasks

check_choice("MODE", MODE, ("behaviour", "utility", "both"))
checkpoint, modes = HERE / CHECKPOINT, routes_of(EVAL_MODES)
if not modes or not TASKS or NUM_DOCUMENTS < 0:
    raise BadInput("give at least one of EVAL_MODES and one of TASKS, and NUM_DOCUMENTS from 0 up")
held_out = load_stories(STORIES, limit=0).split(SPLIT)
stories = held_out[:NUM_PROMPTS]
measured = {mode: {} for mode in modes}
units, columns = {}, []
if MODE != "behaviour":
    check_lm_eval()
    tasks = load_tasks([name for name in TASKS if name != TASK])
    documents = continuation_choices(held_out, SEED)[: NUM_DOCUMENTS or None] if TASK in TASKS else []
output = HERE / "results" / checkpoint.name / f"evaluate_{MODE}.json"
refuse_other_results(output, CONSTANTS)
model, tokenizer, _ = load_run(checkpoint)

# %% Behaviour
if MODE != "utility":
    sampling = (MAX_NEW_TOKENS, EVAL_SEQ_LENGTH, TEMPERATURE, SEED, NUM_GENERATIONS)
    behaviour = measure(model, tokenizer, stories, modes, *sampling)
    units |= {kind: [story.plot for story in stories] for kind in ("caps_rate", "loss")}
    columns += COLUMNS
    for mode in modes:
        measured[mode] |= behaviour[mode]

# %% Utility: intervals of the project's own task are over plots, those of others over documents
reported = {}
if MODE != "behaviour":
    if documents:
        tasks["tasks"][TASK] = choice_task(TASK, documents, tokenizer.bos_token)
    values, reported = run_tasks(model, tokenizer, tasks, modes, NUM_DOCUMENTS, EVAL_BATCH_SIZE, SEED)
    plots = [document["plot"] for document in documents]
    units["utility"] = {
        task: {name: plots if task == TASK else range(len(found)) for name, found in metrics.items()}
        for task, metrics in next(iter(values.values())).items()
    }
    for mode in modes:
        measured[mode]["utility"] = values[mode]
results = mode_intervals(measured, units)
for mode, found in reported.items():
    for task, metrics in found.items():
        results[mode]["utility"][task] |= metrics

# %% Table, JSON, figure; tasks of a group are in the JSON alone
if MODE != "behaviour":
    inside = {task for own in tasks["group_map"].values() for task in own}
    first = next(iter(results.values()))["utility"]
    columns += [
        Column(("utility", task, name), f"{task}, {name}", name, bounded=0 <= value["mean"] <= 1)
        for task, metrics in first.items() if task not in inside
        for name, value in metrics.items()
    ]  # fmt: skip
print(f"\n{checkpoint.name}\n{format_table(results, columns)}")
write_json(output, {"modes": results, "constants": CONSTANTS})
plot_modes(results, columns, HERE / "plots" / f"{checkpoint.name}_evaluate_{MODE}.png", checkpoint.name)
