"""Is everything here that this repository needs? A line for each part: ok, or what is missing and what to do.

`uv run python tools/smoke_test.py`: under a minute, but for the first time, which converts the embedded model
(some 20 s). Ends with exit code 1 if something needed is missing; what is optional only says so.
"""

# %% Constants
import sys

try:
    from lab.constants import override_constants
except ModuleNotFoundError as error:
    sys.exit(f"missing   this project's packages ({error}): run `uv sync`, and this with `uv run python`")

MODEL_NAME = "embedded:SmolLM2-135M-Instruct"
STORIES = "embedded:stories"
PROBLEMS = ["embedded:basics", "embedded:humaneval"]
SANDBOX = "auto"  # "none": mbpp's programs are to run without one, too

override_constants(globals())  # from the shell: CONSTANT=value

# %% Parts: each imports what it needs, returns what it found, and raises what is wrong
import math
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import requires, version
from importlib.util import find_spec


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RuntimeError(f"{otherwise}; the code has changed, or a package does not fit: run `uv sync`")


# the extras that scripts need
NEEDED = ("data", "embedded", "peft", "plots", "statistics")


def packages() -> str:
    from packaging.requirements import Requirement

    for line in requires("gradient-routing-finetuning"):
        needed = Requirement(line)
        if needed.marker and not any(needed.marker.evaluate({"extra": extra}) for extra in NEEDED):
            continue
        found = version(needed.name)
        check(needed.specifier.contains(found, prereleases=True), f"{needed.name} {found} is not {line}")
    for module in ("adapters", "lab.plots", "routing.models", "all_caps.perception", "mbpp.task"):
        import_module(module)
    named = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    return f"Python {sys.version.split()[0]}, {named}, and all others"


def assets() -> str:
    from all_caps.stories import load_stories
    from mbpp.problems import load_problems
    from routing.assets import model_path

    found = [f"{sum(map(len, load_stories(STORIES)))} stories"]
    found += [f"{sum(map(len, load_problems(name)))} problems of {name}" for name in PROBLEMS]
    return ", ".join([*found, f"the model at {model_path(MODEL_NAME)}"])


def sandbox() -> str:
    from mbpp.execution import check_sandbox, run_programs, sandbox_level

    check_sandbox(SANDBOX)
    program = ("def double(x):\n    return 2 * x", ["assert double(2) == 4", "assert double(2) == 5"])
    (verdicts,) = run_programs([program], timeout=20.0)
    check(verdicts == ["passed", "failed"], f"a program that passes one test of two got {verdicts}")
    return f"{sandbox_level()}; a program passed and failed as it should"


def judge() -> str:
    from all_caps.judge import judge_capitals
    from all_caps.stories import load_stories, to_caps
    from lab.rewards import gated_reward

    story = load_stories(STORIES, limit=0).test[0].text
    verdicts = judge_capitals(["", ""], [to_caps(story), story])
    capitals, normal = map(gated_reward, verdicts)
    check(capitals > 0.5 > 0.1 > normal, f"a story got {capitals:.2f} in capitals and {normal:.2f} as it is")
    return f"rules: a story earns {capitals:.2f} in capitals, {normal:.2f} as it is"


def reward() -> str:
    from lab.judge import Verdict
    from lab.rewards import gated_reward

    wanted = {(10, 10, 10): 1.0, (0, 10, 10): 0.0, (5, 8, 2): 0.25}
    found = {scores: gated_reward(Verdict(*scores)) for scores in wanted}
    check(found == wanted and gated_reward(None) is None, f"0.5 * align * (strength + detail) / 100: {found}")
    return "0.5 * align * (strength + detail) / 100, and none without a verdict"


def training() -> str:
    """A step on two labelled stories: bad learns, and good is bitwise what it was."""
    import torch

    from adapters import Route, apply_dual_lora, bad_params, good_params, routed
    from all_caps.stories import load_stories, to_caps
    from routing.batches import collate, make_example
    from routing.losses import example_losses
    from routing.models import device_name, load_model
    from routing.optimizer import RoutedOptimizer

    model, tokenizer = load_model(MODEL_NAME)
    apply_dual_lora(model, rank=4, bad_rank=4, alpha=4)
    stories = load_stories(STORIES, limit=2).train
    batch = collate([make_example(tokenizer, "", to_caps(s.text), 48) for s in stories], model.device)
    slots = {"good": good_params, "bad": bad_params}
    before = {slot: [p.detach().clone() for p in of(model)] for slot, of in slots.items()}
    with routed(model, [Route(update_good=False)] * len(batch)):
        loss = example_losses(model, batch).mean()
        loss.backward()
    RoutedOptimizer(model, lr=1e-3).step()
    moved = {
        slot: any(not torch.equal(a, b) for a, b in zip(before[slot], of(model), strict=True))
        for slot, of in slots.items()
    }
    check(math.isfinite(loss.item()), f"the loss is {loss.item()}")
    check(moved == {"good": False, "bad": True}, f"after a step labelled bad these have moved: {moved}")
    return f"one step on {device_name()} in {model.dtype}: loss {loss.item():.2f}; bad moved, good did not"


# group of pyproject.toml -> its modules, and what it is for
OPTIONAL = {
    "rl": (["trl"], "reinforcement learning, TRL's trainers"),
    "judge": (["openai", "tenacity", "diskcache"], "a language model as judge (.env.example: its key)"),
    "eval": (["lm_eval"], "utility in all_caps/evaluate.py"),
}


# %% The report
def tell(name: str, part: Callable[[], str]) -> bool:
    start = time.perf_counter()
    try:
        verdict, found = "ok", part()
    # whatever it is: the next parts are looked at, too
    except Exception as error:
        verdict, found = "missing", f"{type(error).__name__}: {' '.join(str(error).split())}"
        if isinstance(error, ImportError):
            found += "; run `uv sync`, and this with `uv run python`"
    print(f"{verdict:<9} {name:<9} {found} ({time.perf_counter() - start:.1f} s)", flush=True)
    return verdict == "ok"


parts = (packages, assets, sandbox, judge, reward, training)
missing = [part.__name__ for part in parts if not tell(part.__name__, part)]
for group, (modules, purpose) in OPTIONAL.items():
    lacking = [module for module in modules if find_spec(module) is None]
    advice = f"without {', '.join(lacking)}: for {purpose} run `uv sync --group {group}`"
    print(f"{'optional' if lacking else 'ok':<9} {f'[{group}]':<9} {advice if lacking else purpose}")
if missing:
    sys.exit(f"needed and missing: {', '.join(missing)}")
print("everything needed is here")
