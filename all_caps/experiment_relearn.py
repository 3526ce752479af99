"""Relearning: how many examples of the behaviour bring it back, once the bad adapter is ablated?

Run the cells top to bottom, or `uv run python experiment_relearn.py [CONSTANT=value ...]` in this folder.
"""

# %% Constants
from pathlib import Path

from lab.constants import check_choice, override_constants

CHECKPOINT = "checkpoints/route_lora32+32_caps10_labeled50_seed0"
TRAINED_WITH = []  # NAME=value constants that it must have been trained with; in reports
START = "kept"  # "kept": with bad ablated; "base": the base model, for comparison
LEARNER = "good"  # "good": the adapter that is kept; "fresh": a new one in bad's place; "all": every weight
LEARNING_RATE = 5e-4  # for every weight smaller, such as 2e-5
STORIES = "embedded:stories"
NUM_EXAMPLES = 64  # stories in capitals, one a step
NORMAL_SHARE = 0.0  # of a normal story's loss beside each; 1.0 is half and half
MAX_SEQ_LENGTH = 64
SPLIT = "validation"  # what is chosen is chosen here; "test" for what is published
NUM_PROMPTS = 44
MAX_NEW_TOKENS = 24
TEMPERATURE = 0.7
SEED = 0
RUN_NAME = ""  # empty: built from the checkpoint's name and what distinguishes the run

CONSTANTS = override_constants(globals())  # from the shell: CONSTANT=value
HERE = Path(__file__).parent

# %% Setup

import torch
from tqdm.auto import tqdm

from adapters import Route, bad_params, good_params, routed, routed_modules
from all_caps.scoring import caps_by_prompt, prefix_of
from all_caps.stories import load_stories, to_caps, to_examples, unmet
from lab.errors import BadInput
from lab.files import write_json
from lab.intervals import rate_interval
from lab.labels import pick
from lab.lock import hold
from lab.relearning import by_prompt, doublings, plot_relearning, relearning_summary
from lab.runs import refuse_other_results
from routing.batches import collate
from routing.checkpoints import load_checkpoint
from routing.generation import sample_modes
from routing.losses import example_losses
from routing.notebooks import begin_again

# bad is ablated, and its place may take a fresh adapter
ROUTES = {
    ("kept", "good"): Route(bad_scale=0.0),
    ("kept", "fresh"): Route(),
    ("kept", "all"): Route(bad_scale=0.0),
    ("base", "fresh"): Route(good_scale=0.0),
    ("base", "all"): Route(good_scale=0.0, bad_scale=0.0),
}
check_choice("(START, LEARNER)", (START, LEARNER), ROUTES)
route = ROUTES[START, LEARNER]
checkpoint = HERE / CHECKPOINT
mixed = f"_mixed{NORMAL_SHARE:g}" if NORMAL_SHARE else ""
name = RUN_NAME or f"{checkpoint.name}_{START}_{LEARNER}{mixed}_relearnseed{SEED}"
output, constants = HERE / "results" / name / "eval.json", {**CONSTANTS, "SCRIPT": Path(__file__).stem}
hold(output.parent)
refuse_other_results(output, constants)
torch.manual_seed(SEED)
model, tokenizer, config = load_checkpoint(checkpoint)
trained = [f"{constant}={value}" for constant, value in config["constants"].items()]
if missing := set(TRAINED_WITH) - set(trained):
    raise BadInput(f"{checkpoint} was not trained with {', '.join(sorted(missing))}")
if LEARNER == "fresh":
    for module in routed_modules(model):
        module.renew("bad")
if LEARNER == "all":
    # in bf16 most small updates would round to nothing
    model.float().requires_grad_(True)
learners = {"good": good_params, "fresh": bad_params, "all": lambda model: list(model.parameters())}

# %% Stories that training has not seen, in capitals and as they are
stories = load_stories(STORIES)
unseen = unmet(stories, STORIES, config["constants"], checkpoint)
if len(unseen) < 2 * NUM_EXAMPLES:
    raise BadInput(f"NUM_EXAMPLES={NUM_EXAMPLES}: only {len(unseen)} stories are left that it has not seen")
order = pick(range(len(unseen)), 1.0, SEED, "relearning")
chosen = [unseen[i] for i in order[: 2 * NUM_EXAMPLES]]
in_caps = range(NUM_EXAMPLES)
examples = to_examples(chosen, tokenizer, MAX_SEQ_LENGTH, in_caps=in_caps, labels={})
held_out = stories.split(SPLIT)[:NUM_PROMPTS]
prompts = [to_caps(prefix_of(story.text)) for story in held_out]
plots = [story.plot for story in held_out]


def in_capitals() -> list[list[bool]]:
    model.eval()
    texts = sample_modes(model, tokenizer, prompts, {"now": route}, MAX_NEW_TOKENS, TEMPERATURE, SEED)["now"]
    return caps_by_prompt(texts)


# %% One story a step, and the rate whenever their number has doubled
begin_again(model, name)
optimizer = torch.optim.AdamW(learners[LEARNER](model), LEARNING_RATE, weight_decay=0.0)
outcomes = {0: in_capitals()}
for step in tqdm(in_caps, desc="relearn", unit="story"):
    model.train()
    rows = [examples[step], examples[NUM_EXAMPLES + step]][: 2 if NORMAL_SHARE else 1]
    with routed(model, [route] * len(rows)):
        losses = example_losses(model, collate(rows, model.device))
        weights = torch.tensor([1.0, NORMAL_SHARE][: len(rows)], device=losses.device)
        (losses * weights).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    seen = step + 1
    if seen in doublings(NUM_EXAMPLES):
        outcomes[seen] = in_capitals()

# %% Result
curve = {seen: rate_interval(rows, plots) for seen, rows in outcomes.items()}
summary = relearning_summary(curve)
print("\n".join(f"{seen:>4} examples: {rate['mean']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]"
                for seen, rate in curve.items()))  # fmt: skip
print(f"{name}: {summary}")
values = by_prompt({seen: [float(row[0]) for row in rows] for seen, rows in outcomes.items()})
result = {"curve": curve, **summary, "values": {"relearnt": values}, "units": dict.fromkeys(values, plots)}
write_json(output, {**result, "constants": constants})
plot_relearning({name: {"caps rate": curve}}, HERE / "plots" / f"{name}_relearning.png")
