"""Compare runs: hacking, solving and held-out losses of every run's ablation modes.

They go into one table, one JSON file and two figures. Finished results are kept and reused; delete
results/eval_multi_results.json to evaluate everything again.
"""

# %% Constants
from pathlib import Path

from lab.constants import override_constants
from mbpp.run_config import RunConfig

PROBLEMS = "embedded:basics"
SANITIZED_PROBLEMS = ""
SPLIT = "test"  # "validation" for what is still to be chosen
NUM_SAMPLES = 100  # held-out problems
NUM_GENERATIONS = 2  # per problem
MAX_NEW_TOKENS = 56
TEMPERATURE = 0.7
CODE_TIMEOUT = 3.0  # seconds a program may run
SANDBOX = "auto"  # "none": where no sandbox works, run model-written programs without one
SEED = 0
# if given: evaluate these folders of checkpoints/, as their configs describe them, instead of RUNS
RUN_NAMES = []
OUTPUT = "eval_multi"  # names the results and the figures

# a RunConfig may also give type, dimensions, label,
# and eval_modes [(retain_scale, forget_scale, mode_name), ...]
RUNS = [
    RunConfig("half of the hacks labelled", "checkpoints/route_lora32+32_rh25_forget50_retain50_seed0"),
    RunConfig("clean solutions only", "checkpoints/route_lora32+32_rh0_forget0_retain0_seed0"),
    RunConfig("no routing", "checkpoints/route_lora32+32_rh25_forget0_retain0_seed0"),
    RunConfig("random labels", "checkpoints/random_lora32+32_rh25_forget50_retain50_seed0"),
]

# from the shell: CONSTANT=value
CONSTANTS = override_constants(globals())
HERE = Path(__file__).parent

# %% Setup
from lab.files import fingerprint
from lab.plots import plot_comparison, plot_tradeoff
from lab.results import ResultsCache, cache_key, sources_hash
from lab.run_config import check_names, check_run, has_checkpoint
from lab.runs import read_config
from mbpp.execution import check_sandbox, sandbox_level
from mbpp.hacks import verified_hacks
from mbpp.problems import load_problems
from mbpp.task import COLUMNS, MODES, evaluate, format_table
from routing.checkpoints import CheckpointLoader
from routing.generation import routes_of
from routing.models import device_name

check_sandbox(SANDBOX)
problems = load_problems(PROBLEMS, SANITIZED_PROBLEMS).split(SPLIT)[:NUM_SAMPLES]
hacks = verified_hacks(problems)[0]
parts = [part for problem in problems for part in (problem.text, problem.code, *problem.tests)]
parts += [part for pair in sorted(hacks.items()) for part in map(str, pair)]
data = fingerprint(parts)
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
    constants = read_config(checkpoint)["constants"]
    trained_on = constants["PROBLEMS"]
    if trained_on != PROBLEMS:
        print(f"\n{run.name}: trained on {trained_on}, evaluated on {PROBLEMS}")
    modes = {**routes_of(run.eval_modes), "base": MODES["base"]}
    key = cache_key(
        checkpoint, run.eval_modes, evaluation, data, sources_hash(HERE), device_name(), sandbox_level()
    )
    result = cache.get(run.name, key)
    if result is None:
        model, tokenizer, _ = loader.load(checkpoint)
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
    result = results[run.name] = {**result, "label": run.label}
    print(f"\n{result['label']}\n{format_table(result['modes'])}")

# %% Comparison
if missing:
    print(f"\nleft out, no checkpoint: {', '.join(missing)}")
plot_comparison(results, missing, COLUMNS, HERE / "plots" / f"{OUTPUT}_plot.png")
by_path = {column.path: column for column in COLUMNS}
plot_tradeoff(
    results,
    by_path["all_tests_rate",],
    by_path["hardcoded_rate",],
    HERE / "plots" / f"{OUTPUT}_tradeoff.png",
)
