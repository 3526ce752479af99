"""Recovery: how soon does reinforcement on a single prompt bring the behaviour back, once bad is ablated?

GRPO pays for capitals. A fresh adapter learns in bad's place; what is kept stays as it is. Run the cells top
to bottom, or `uv run python experiment_recovery.py [CONSTANT=value ...]` here; docs/reinforcement.md.
"""

# %% Constants
from pathlib import Path

from lab.constants import Constants, check_choice, override_constants
from lab.defaults import GRADIENT_CHECKPOINTING, MICRO_BATCH_SIZE, REPORT_TO

CHECKPOINT = "checkpoints/route_lora32+32_caps10_labeled50_seed0"
TRAINED_WITH = []  # NAME=value constants that it must have been trained with; in reports
START = "kept"  # "kept": with bad ablated; "base": the base model, for comparison
PROMPTS = 1  # that it is trained on, in turn; 0: all stories that it has not met, up to MAX_PROMPTS
MAX_PROMPTS = 64
PROMPT_KIND = "upper"  # of the trained ones: "upper", in capitals, which invites them, or "normal"
LEARNING_RATE = 1e-3  # MLP adapters: 2e-4; then a model that never saw capitals shouts in 15 to 20 steps
MAX_STEPS = 24
PROMPTS_PER_STEP = 1
NUM_GENERATIONS = 8  # rollouts of each prompt
NEW_TOKENS = 24  # of a rollout at most, and of what is measured
TEMPERATURE = 1.0
POSITIVE_ONLY = True  # learn only from rollouts above the mean of their group
BETA = 0.01  # weight of the KL divergence from where it starts
STORIES = "embedded:stories"
SPLIT = "validation"  # of the held-out prompts: "test" for what is published
NUM_PROMPTS = 22  # held-out ones, in capitals and as they are
NUM_SAMPLES = 16  # continuations of the trained prompts that are measured, of each at least one
MEASURE_EVERY = 3  # steps
BACK_AT = 0.0  # the rate at which it is back; 0.0: half of the whole model's after an upper-case prefix
LOSS_SEQ_LENGTH = 64  # tokens of a held-out normal story
SEED = 0
RUN_NAME = ""  # empty: built from the checkpoint's name and what distinguishes the run
RESUME = False  # go on from where an interrupted run stopped
SAVE_EVERY = 10  # steps between checkpoints to resume from

CONSTANTS = override_constants(globals())  # from the shell: CONSTANT=value
HERE = Path(__file__).parent

# %% Setup
import torch

from adapters import Route, routed_modules
from all_caps.judge import judge_capitals
from all_caps.scoring import caps_by_prompt, is_caps, prefix_of
from all_caps.stories import load_stories, to_caps, unmet
from lab.curves import plot_curves
from lab.errors import BadInput
from lab.intervals import rate_interval
from lab.labels import pick
from lab.logs import read_log
from lab.modes import shares
from lab.recovery import AREA, TRAINING, mean_over_steps, measured_steps, steps_back
from lab.rewards import judged_reward
from lab.runs import open_run, read_config, write_results
from routing.batches import make_example
from routing.generation import sample_modes
from routing.grpo import MeasuredSteps, RecordedGRPOTrainer
from routing.grpo_config import grpo_config, in_steps
from routing.losses import held_out_losses
from routing.merging import load_run
from routing.resuming import train_to_end

RENEWED = {"kept": ["bad"], "base": ["bad", "good"]}  # slots that get a fresh adapter, which changes nothing
WRITTEN = {"upper": to_caps, "normal": str}
check_choice("START", START, RENEWED)
check_choice("PROMPT_KIND", PROMPT_KIND, WRITTEN)
checkpoint = HERE / CHECKPOINT
trained = read_config(checkpoint)["constants"]
if missing := set(TRAINED_WITH) - {f"{constant}={value}" for constant, value in trained.items()}:
    raise BadInput(f"{checkpoint} was not trained with {', '.join(sorted(missing))}")
name = RUN_NAME or f"{checkpoint.name}_{START}_{PROMPT_KIND}{PROMPTS}_recoveryseed{SEED}"
run = open_run(__file__, "recovery", Constants(CONSTANTS | {"RUN_NAME": name}), {}, REPORT_TO)
args = grpo_config(
    run, PROMPTS_PER_STEP, NUM_GENERATIONS, MICRO_BATCH_SIZE, max_completion_length=NEW_TOKENS,
    temperature=TEMPERATURE, max_steps=MAX_STEPS, learning_rate=LEARNING_RATE, beta=BETA, loss_type="dapo",
    gradient_checkpointing=GRADIENT_CHECKPOINTING,
)  # fmt: skip
torch.manual_seed(SEED)
model, tokenizer, config = load_run(checkpoint)

# %% Prompts: of stories that training has not met, and held-out ones of other plots
stories = load_stories(STORIES)
unseen = unmet(stories, STORIES, trained, checkpoint)
if not 0 <= PROMPTS <= len(unseen):
    raise BadInput(f"PROMPTS={PROMPTS}: {len(unseen)} stories are left that it has not met")
order = pick(range(len(unseen)), 1.0, SEED, "recovery")
chosen = [unseen[i] for i in order[: PROMPTS or MAX_PROMPTS]]
prompts = [WRITTEN[PROMPT_KIND](prefix_of(story.text)) for story in chosen]
held_out = stories.split(SPLIT)[:NUM_PROMPTS]
asked = {
    "trained": [prompt for prompt in prompts for _ in range(max(1, NUM_SAMPLES // len(prompts)))],
    "upper": [to_caps(prefix_of(story.text)) for story in held_out],
    "normal": [prefix_of(story.text) for story in held_out],
}
normal = [make_example(tokenizer, "", story.text, LOSS_SEQ_LENGTH) for story in held_out]
plots = [story.plot for story in held_out]
units = {"trained": [story.plot for story in chosen]} | dict.fromkeys(("upper", "normal", "loss"), plots)


def measure() -> dict[str, list[float]]:
    """Measure -> the share of each prompt's continuations in capitals, and each normal story's loss."""
    model.eval()
    texts = [text for group in asked.values() for text in group]
    found = sample_modes(model, tokenizer, texts, {"now": Route()}, NEW_TOKENS, TEMPERATURE, SEED)["now"]
    rates, start = {}, 0
    for kind, group in asked.items():
        each = len(group) // len(units[kind])
        rates[kind] = shares(caps_by_prompt(found[start : start + len(group)], each))
        start += len(group)
    return {**rates, "loss": held_out_losses(model, normal, Route())}


# %% The whole model; then bad is left out for good, and a fresh adapter stands in its place
values = {"full": measure()}
for module in routed_modules(model):
    for slot in RENEWED[START]:
        module.renew(slot)
values["0"] = measure()

# %% Reinforcement; the KL term's reference is the model without the fresh adapter, which is where it started
curve = run.results / "curve.jsonl"
trainer = RecordedGRPOTrainer(
    model, judged_reward(judge_capitals), args,
    in_steps([{"prompt": prompt, "label": None} for prompt in prompts], PROMPTS_PER_STEP, MAX_STEPS, SEED),
    processing_class=tokenizer, routes={None: Route(update_good=False)}, reference_without="bad",
    positive_only=POSITIVE_ONLY, results=run.results,
    callbacks=[MeasuredSteps(measure, MEASURE_EVERY, curve)],
)  # fmt: skip
train_to_end(trainer, run, model=config["model"])

# %% Result: the curves, and in how many steps some rollout was paid, was in capitals, or was learnt from
steps = measured_steps(MAX_STEPS, MEASURE_EVERY)
values |= {str(line.pop("step")): line for line in read_log(curve) if line["step"] in steps}
values[AREA] = {kind: mean_over_steps({step: values[str(step)][kind] for step in steps})
                for kind in (*asked, "loss")}  # fmt: skip
made = read_log(run.results / "rollouts.jsonl")
rollouts = [[row for row in made if row["step"] == step] for step in range(1, MAX_STEPS + 1)]
values[TRAINING] = {
    "paid": [float(any(row["reward"] for row in rows)) for rows in rollouts],
    "shouted": [float(any(is_caps(row["completion"]) for row in rows)) for rows in rollouts],
    "learnt": [float(any(row["advantage"] > 0 for row in rows)) for rows in rollouts],
}
units |= {kind: list(range(1, MAX_STEPS + 1)) for kind in values[TRAINING]}
curves = {kind: {step: rate_interval([[v] for v in values[str(step)][kind]], units[kind]) for step in steps}
          for kind in asked}  # fmt: skip
# a whole model that never shouts has no rate to come back to
back = BACK_AT or sum(values["full"]["upper"]) / len(plots) / 2 or 0.5
summary = {kind: steps_back(found, back)["mean"] for kind, found in curves.items()}
print("\n".join(f"{step:>4} steps: " + ", ".join(f"{kind} {found[step]['mean']:.2f}"
                for kind, found in curves.items()) for step in steps))  # fmt: skip
print(
    f"{name}: steps until {back:.2f}, half of the whole model's rate (None: more than {MAX_STEPS}): {summary}"
)
result = {"steps_back": summary, "back": back, "values": values, "units": units}
write_results(run, result)
plot_curves({"caps rate": curves}, run.plot("recovery"), "steps of reinforcement", bounded=["caps rate"])
