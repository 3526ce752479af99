"""Compare runs: rates of the behaviour and held-out losses of every run's ablation modes.

They go into one table, one JSON file and one figure. Finished results are kept and reused; delete
results/eval_multi_results.json to evaluate everything again.
"""

# %% Constants
from pathlib import Path

from lab.constants import override_constants
from lab.run_config import RunConfig

DATA = "catchphrase.jsonl"  # as in experiment.py, and so COLUMN_NAMES and MAX_SEQ_LENGTH
COLUMN_NAMES = ""
SPLIT = "test"  # "validation" for what is still to be chosen
NUM_PROMPTS = 60  # held-out lines
NUM_GENERATIONS = 2  # per prompt
MAX_NEW_TOKENS = 40
TEMPERATURE = 0.7
MAX_SEQ_LENGTH = 96
SEED = 0
# if given: evaluate these folders of checkpoints/, as their configs describe them, instead of RUNS
RUN_NAMES = []
OUTPUT = "eval_multi"  # names the results and the figure

# a RunConfig may also give type, dimensions, eval_modes [(good_scale, bad_scale, mode_name), ...] and label
RUNS = [
    RunConfig("no labels", "checkpoints/route_lora32+32_bad0_good0_seed0"),
    RunConfig(
        "half of the bad labels", "checkpoints/route_lora32+32_bad50_good100_labeled-bad-repeats4_seed0"
    ),
    RunConfig("all labels", "checkpoints/route_lora32+32_bad100_good100_seed0"),
]

# from the shell: CONSTANT=value
CONSTANTS = override_constants(globals())
HERE = Path(__file__).parent

# %% Setup
from lab.files import fingerprint
from lab.plots import plot_comparison
from lab.results import ResultsCache, cache_key, sources_hash
from lab.run_config import check_names, check_run, has_checkpoint
from lab.tables import format_table
from routing.checkpoints import CheckpointLoader
from routing.generation import MODES, routes_of
from routing.models import device_name
from routing.rows import read_rows
from task import COLUMNS, evaluate, to_lines

rows = read_rows(DATA, HERE)
data = fingerprint(str(row) for _, row in rows)
runs = [RunConfig(name, f"checkpoints/{name}") for name in RUN_NAMES] if RUN_NAMES else RUNS
check_names(runs)
cache = ResultsCache(HERE / "results" / f"{OUTPUT}_results.json")
unrelated = ("RUN_NAMES", "OUTPUT")
evaluation = {name: value for name, value in CONSTANTS.items() if name not in unrelated}

# %% Evaluation: all modes of a run in one batched generation, and the base model beside them
loader = CheckpointLoader()
results, missing = {}, []
for run in runs:
    checkpoint = HERE / run.checkpoint_path
    if not has_checkpoint(checkpoint):
        missing.append(run.name)
        continue
    check_run(run, checkpoint)
    modes = {**routes_of(run.eval_modes), "base": MODES["base"]}
    key = cache_key(checkpoint, run.eval_modes, evaluation, data, sources_hash(HERE), device_name())
    result = cache.get(run.name, key)
    if result is None:
        model, tokenizer, _ = loader.load(checkpoint)
        lines = to_lines(rows, COLUMN_NAMES, tokenizer, MAX_SEQ_LENGTH).split(SPLIT)[:NUM_PROMPTS]
        measured = evaluate(
            model,
            tokenizer,
            lines,
            modes,
            MAX_NEW_TOKENS,
            TEMPERATURE,
            SEED,
            NUM_GENERATIONS,
        )
        result = cache.put(run.name, key, {"modes": measured})
    result = results[run.name] = {**result, "label": run.label}
    print(f"\n{result['label']}\n{format_table(result['modes'], COLUMNS)}")

# %% Comparison
if missing:
    print(f"\nleft out, no checkpoint: {', '.join(missing)}")
plot_comparison(results, missing, COLUMNS, HERE / "plots" / f"{OUTPUT}_plot.png")
