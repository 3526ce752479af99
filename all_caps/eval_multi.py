"""Compare runs: caps rates and held-out losses of every run's ablation modes, in one table, one JSON file and one figure.

Finished results are kept and reused; delete results/eval_multi_results.json to evaluate everything again.
"""

# %% Constants
from pathlib import Path

from routing.notebook import constants_of, override_constants
from routing.results import RunConfig

STORIES = "embedded:stories"
NUM_PROMPTS = 40
NUM_GENERATIONS = 2  # per prompt, and per kind of prefix
MAX_NEW_TOKENS = 24
TEMPERATURE = 0.7
EVAL_SEQ_LENGTH = 128
SEED = 0
RUN_NAMES = []  # if given: evaluate these folders of checkpoints/, as their configs describe them, instead of RUNS
OUTPUT = "eval_multi"  # names the results and the figure

EVAL_MODES = [(1.0, 1.0, "full"), (1.0, 0.0, "bad_ablated"), (0.0, 1.0, "good_ablated")]
RUNS = [
    RunConfig(
        "base", "checkpoints/base_lora32+32_caps10_labeled50_seed0", "lora", 32, 32, EVAL_MODES, "base"
    ),
    RunConfig(
        "dispersed",
        "checkpoints/dispersed_lora32+32_caps10_labeled50_good5_seed0",
        "lora",
        32,
        32,
        EVAL_MODES,
        "dispersed",
    ),
    RunConfig(
        "postablation",
        "checkpoints/postablation_lora32+32_caps10_labeled50_seed0",
        "lora",
        32,
        32,
        EVAL_MODES,
        "post-ablation",
    ),
]

override_constants(globals())  # from the shell: CONSTANT=value
CONSTANTS = constants_of(globals())
HERE = Path(__file__).parent

# %% Setup
from all_caps.task import COLUMNS, PREFIX_WORDS, evaluate, format_table
from routing.assets import fingerprint, load_stories
from routing.checkpoints import load_checkpoint
from routing.generation import MODES
from routing.plots import plot_comparison
from routing.results import ResultsCache, cache_key, check_names, check_run, has_checkpoint, run_config_of

stories = load_stories(STORIES, limit=NUM_PROMPTS)[1]
runs = [run_config_of(HERE / "checkpoints" / name, EVAL_MODES) for name in RUN_NAMES] if RUN_NAMES else RUNS
check_names(runs)
cache = ResultsCache(HERE / "results" / f"{OUTPUT}_results.json")
unrelated = ("RUN_NAMES", "OUTPUT", "EVAL_MODES")
evaluation = {name: value for name, value in CONSTANTS.items() if name not in unrelated}
evaluation["PREFIX_WORDS"] = PREFIX_WORDS

# %% Evaluation: all modes of a run in one batched generation, and the base model beside them
results, missing = {}, []
for run in runs:
    checkpoint = HERE / run.checkpoint_path
    if not has_checkpoint(checkpoint):
        missing.append(run.name)
        continue
    check_run(run, checkpoint)
    modes = {**run.routes(), "base": MODES["base"]}
    key = cache_key(checkpoint, run.eval_modes, evaluation, fingerprint(stories))
    result = cache.get(run.name, key)
    if result is None:
        model, tokenizer, _ = load_checkpoint(checkpoint)
        measured = evaluate(
            model,
            tokenizer,
            stories,
            modes,
            NUM_PROMPTS,
            MAX_NEW_TOKENS,
            EVAL_SEQ_LENGTH,
            TEMPERATURE,
            SEED,
            NUM_GENERATIONS,
        )
        result = cache.put(run.name, key, {"modes": measured})
    result = results[run.name] = {**result, "label": run.label or run.name}
    print(f"\n{result['label']}\n{format_table(result['modes'])}")

# %% Comparison
if missing:
    print(f"\nleft out, no checkpoint: {', '.join(missing)}")
plot_comparison(results, missing, COLUMNS, HERE / "plots" / f"{OUTPUT}_plot.png")
