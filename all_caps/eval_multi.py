"""Compare runs: caps rates and held-out losses of every run's ablation modes.

They go into one table, one JSON file and one figure. Finished results are kept and reused; delete
results/eval_multi_results.json to evaluate everything again.
"""

# %% Constants
from pathlib import Path

from lab.constants import override_constants
from lab.run_config import RunConfig

STORIES = "embedded:stories"
SPLIT = "test"  # "validation" for what is still to be chosen
NUM_PROMPTS = 40
NUM_GENERATIONS = 2  # per prompt, and per kind of prefix
MAX_NEW_TOKENS = 24
TEMPERATURE = 0.7
EVAL_SEQ_LENGTH = 128
SEED = 0
# if given: evaluate these folders of checkpoints/, as their configs describe them, instead of RUNS
RUN_NAMES = []
OUTPUT = "eval_multi"  # names the results and the figure

# a RunConfig may also give type, dimensions, eval_modes [(good_scale, bad_scale, mode_name), ...] and label
RUNS = [
    RunConfig("no caps", "checkpoints/route_lora32+32_caps0_labeled50_seed0"),
    RunConfig("0% labelled", "checkpoints/route_lora32+32_caps10_labeled0_seed0"),
    RunConfig("50% labelled", "checkpoints/route_lora32+32_caps10_labeled50_seed0"),
    RunConfig("100% labelled", "checkpoints/route_lora32+32_caps10_labeled100_seed0"),
]

# from the shell: CONSTANT=value
CONSTANTS = override_constants(globals())
HERE = Path(__file__).parent

# %% Setup
from all_caps.scoring import PREFIX_WORDS
from all_caps.stories import load_stories
from all_caps.task import COLUMNS, evaluate
from lab.files import fingerprint
from lab.plots import plot_comparison
from lab.results import ResultsCache, cache_key, sources_hash
from lab.run_config import check_names, check_run, has_checkpoint
from lab.tables import format_table
from routing.checkpoints import CheckpointLoader
from routing.generation import MODES, routes_of
from routing.models import device_name

stories = load_stories(STORIES).split(SPLIT)[:NUM_PROMPTS]
data = fingerprint(map(str, stories))
runs = [RunConfig(name, f"checkpoints/{name}") for name in RUN_NAMES] if RUN_NAMES else RUNS
check_names(runs)
cache = ResultsCache(HERE / "results" / f"{OUTPUT}_results.json")
unrelated = ("RUN_NAMES", "OUTPUT")
evaluation = {name: value for name, value in CONSTANTS.items() if name not in unrelated}
evaluation["PREFIX_WORDS"] = PREFIX_WORDS

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
        measured = evaluate(
            model,
            tokenizer,
            stories,
            modes,
            MAX_NEW_TOKENS,
            EVAL_SEQ_LENGTH,
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
