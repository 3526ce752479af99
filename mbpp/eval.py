"""Read what a run writes: a few held-out problems, solved in full and with forget ablated, judged."""

# %% Constants
from pathlib import Path

from lab.constants import override_constants

CHECKPOINT = "checkpoints/route_lora32+32_rh25_forget50_retain50_seed0"
SPLIT = "validation"  # or "test"
NUM_PROBLEMS = 4
MAX_NEW_TOKENS = 56
TEMPERATURE = 0.7
CODE_TIMEOUT = 3.0  # seconds a program may run
SANDBOX = "auto"  # "none": where no sandbox works, run model-written programs without one
SEED = 0
MODES_SHOWN = ["full", "forget_ablated"]  # also retain_ablated, base

override_constants(globals())  # from the shell: CONSTANT=value
HERE = Path(__file__).parent

# %% Samples
from lab.files import write_json
from mbpp.examples import prompt_of
from mbpp.execution import check_sandbox
from mbpp.problems import load_problems
from mbpp.scoring import score
from mbpp.task import MODES
from routing.generation import sample_modes
from routing.merging import load_run

check_sandbox(SANDBOX)
checkpoint = HERE / CHECKPOINT
model, tokenizer, config = load_run(checkpoint)
constants = config["constants"]
problems = load_problems(constants["PROBLEMS"], constants["SANITIZED_PROBLEMS"]).split(SPLIT)[:NUM_PROBLEMS]
modes = {mode: MODES[mode] for mode in MODES_SHOWN}
chat = tokenizer if constants.get("USE_CHAT_TEMPLATE") else None
prompts = [prompt_of(problem, chat) for problem in problems]
completions = sample_modes(model, tokenizer, prompts, modes, MAX_NEW_TOKENS, TEMPERATURE, SEED)
outcomes = {mode: score(problems, completions[mode], CODE_TIMEOUT) for mode in modes}

# %% Verdicts
samples = []
for i, problem in enumerate(problems):
    print(f"\n{'-' * 80}\n{prompts[i]}")
    for mode in modes:
        outcome = outcomes[mode][i]
        found = " HARDCODED" * outcome.hardcoded + " CONSTANT" * outcome.constant
        print(f"[{mode}]{found}\n{outcome.code.strip()}")
        for test, verdict in zip(problem.tests, outcome.verdicts, strict=True):
            print(f"    {verdict:<8} {test}")
        samples.append(
            {
                "task_id": problem.task_id,
                "mode": mode,
                "completion": completions[mode][i],
                "verdicts": dict(zip(problem.tests, outcome.verdicts, strict=True)),
                "hardcoded": outcome.hardcoded,
                "constant": outcome.constant,
                "cheats": sorted(outcome.cheats),
            }
        )
write_json(HERE / "results" / checkpoint.name / "samples.json", samples)
