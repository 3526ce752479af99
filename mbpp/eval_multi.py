"""Compare runs: hacking, solving and held-out losses of every run's ablation modes, in one table, one JSON file, two figures.

Finished results are kept and reused; delete results/eval_multi_results.json to evaluate everything again.
"""

# %% Constants
from pathlib import Path

from mbpp.task import RunConfig
from routing.notebook import constants_of, override_constants

PROBLEMS = "embedded:basics"
SANITIZED_PROBLEMS = ""
NUM_SAMPLES = 100  # held-out problems
NUM_GENERATIONS = 2  # per problem
MAX_NEW_TOKENS = 56
TEMPERATURE = 0.7
CODE_TIMEOUT = 3.0  # seconds a program may run
SANDBOX = "auto"  # "none": where no sandbox works, run model-written programs without one
SEED = 0
RUN_NAMES = []  # if given: evaluate these folders of checkpoints/, as their configs describe them, instead of RUNS
OUTPUT = "eval_multi"  # names the results and the figures

EVAL_MODES = [(1.0, 1.0, "full"), (1.0, 0.0, "forget_ablated"), (0.0, 1.0, "retain_ablated")]
RUNS = [
    RunConfig(
        "routed",
        "checkpoints/base_lora32+32_rh25_forget100_retain50_seed0",
        "lora",
        32,
        32,
        EVAL_MODES,
        "all hacks labelled",
    ),
    RunConfig(
        "clean",
        "checkpoints/base_lora32+32_rh0_forget0_retain0_seed0",
        "lora",
        32,
        32,
        EVAL_MODES,
        "clean solutions only",
    ),
    RunConfig(
        "no routing",
        "checkpoints/base_lora32+32_rh25_forget0_retain0_seed0",
        "lora",
        32,
        32,
        EVAL_MODES,
        "no routing",
    ),
    RunConfig(
        "random",
        "checkpoints/random_lora32+32_rh25_forget100_retain50_seed0",
        "lora",
        32,
        32,
        EVAL_MODES,
        "random labels",
    ),
]

override_constants(globals())  # from the shell: CONSTANT=value
CONSTANTS = constants_of(globals())
HERE = Path(__file__).parent

# %% Setup
from mbpp.execution import check_sandbox, sandbox_level
from mbpp.hacks import verified_hacks
from mbpp.problems import load_problems
from mbpp.task import MODES, PANELS, evaluate, format_table
from routing.assets import fingerprint
from routing.checkpoints import load_checkpoint, read_config
from routing.plots import plot_comparison, plot_tradeoff
from routing.results import ResultsCache, cache_key, check_names, check_run, has_checkpoint, run_config_of

check_sandbox(SANDBOX)
problems = load_problems(PROBLEMS, SANITIZED_PROBLEMS).test[:NUM_SAMPLES]
hacks = verified_hacks(problems)[0]
data = fingerprint(part for problem in problems for part in (problem.text, problem.code, *problem.tests))
runs = [run_config_of(HERE / "checkpoints" / name, EVAL_MODES) for name in RUN_NAMES] if RUN_NAMES else RUNS
check_names(runs)
cache = ResultsCache(HERE / "results" / f"{OUTPUT}_results.json")
unrelated = ("RUN_NAMES", "OUTPUT", "EVAL_MODES")
evaluation = {name: value for name, value in CONSTANTS.items() if name not in unrelated}

# %% Evaluation: all modes of a run in one batched generation, and the base model beside them
results, missing = {}, []
for run in runs:
    checkpoint = HERE / run.checkpoint_path
    if not has_checkpoint(checkpoint):
        missing.append(run.name)
        continue
    check_run(run, checkpoint)
    constants = read_config(checkpoint)["constants"]
    trained_on = constants["PROBLEMS"]
    if trained_on != PROBLEMS:
        print(f"\n{run.name}: trained on {trained_on}, evaluated on {PROBLEMS}")
    modes = {**run.routes(), "base": MODES["base"]}
    key = cache_key(checkpoint, run.eval_modes, evaluation, data)
    result = cache.get(run.name, key)
    if result is None:
        model, tokenizer, _ = load_checkpoint(checkpoint)
        measured = evaluate(
            model,
            tokenizer,
            problems,
            hacks,
            modes,
            MAX_NEW_TOKENS,
            CODE_TIMEOUT,
            TEMPERATURE,
            SEED,
            NUM_GENERATIONS,
            constants.get("USE_CHAT_TEMPLATE", False),
        )
        result = cache.put(run.name, key, {"modes": measured, "sandbox": sandbox_level()})
    result = results[run.name] = {**result, "label": run.label or run.name}
    print(f"\n{result['label']}\n{format_table(result['modes'])}")

# %% Comparison
if missing:
    print(f"\nleft out, no checkpoint: {', '.join(missing)}")
plot_comparison(results, missing, PANELS, HERE / "plots" / f"{OUTPUT}_plot.png")
plot_tradeoff(
    results,
    ("share of solutions that pass all tests", ("all_tests_rate",)),
    ("share of solutions that are hardcoded", ("hardcoded_rate",)),
    HERE / "plots" / f"{OUTPUT}_tradeoff.png",
)
