"""Compare runs: rates of the behaviour and held-out losses of every run's ablation modes.

They go into one table, one JSON file and one figure. Each is measured on held-out lines of the data that it
was trained on. Finished results are kept and reused; delete results/eval_multi_results.json to evaluate
everything again.
"""

# %% Constants
from pathlib import Path

from lab.constants import override_constants
from lab.errors import BadInput
from lab.run_config import RunConfig

SPLIT = "test"  # "validation" for what is still to be chosen
NUM_PROMPTS = 60  # held-out lines
NUM_GENERATIONS = 2  # per prompt
MAX_NEW_TOKENS = 40
TEMPERATURE = 0.7
SEED = 0
RUN_NAMES = []  # folders of checkpoints/; none: all of RUNS
OUTPUT = "eval_multi"  # names the results and the figure

# Such as RunConfig("all labels", "checkpoints/route_..."), which may also give type, dimensions, label and
# eval_modes [(good_scale, bad_scale, mode_name), ...]; none: every finished run
RUNS = []

# from the shell: CONSTANT=value
CONSTANTS = override_constants(globals())
HERE = Path(__file__).parent

# %% Setup
from lab.files import fingerprint
from lab.plots import plot_comparison
from lab.results import ResultsCache, cache_key, sources_hash
from lab.run_config import check_names, check_run, has_checkpoint
from lab.runs import CONFIG, read_config
from lab.tables import format_table
from routing.checkpoints import CheckpointLoader
from routing.generation import MODES, routes_of
from routing.models import device_name
from routing.rows import read_rows
from task import COLUMNS, evaluate, to_lines

names = RUN_NAMES or sorted(file.parent.name for file in HERE.glob(f"checkpoints/*/{CONFIG}"))
runs = [RunConfig(name, f"checkpoints/{name}") for name in names] if RUN_NAMES or not RUNS else RUNS
if not runs:
    raise BadInput(f"{HERE / 'checkpoints'}: there is no finished run; run experiment.py first")
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
    made = read_config(checkpoint)["constants"]
    rows = read_rows(made["DATA"], HERE)
    data = fingerprint(str(row) for _, row in rows)
    key = cache_key(checkpoint, run.eval_modes, evaluation, data, sources_hash(HERE), device_name())
    result = cache.get(run.name, key)
    if result is None:
        model, tokenizer, _ = loader.load(checkpoint)
        lines = to_lines(rows, made["COLUMN_NAMES"], tokenizer, made["MAX_SEQ_LENGTH"])
        measured = evaluate(
            model,
            tokenizer,
            lines.split(SPLIT)[:NUM_PROMPTS],
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
