"""Unlearning afterwards, instead of routing: a plain model forgets the labelled stories.

Gradient difference ascends on them and descends on the rest (Liu et al. 2022, arXiv:2203.12817). RMU drives
their activations in one layer to a random direction and holds the rest's where they were (Li et al. 2024,
arXiv:2403.03218). The rest has the unlabelled stories in capitals in it: nobody knows which they are.

Run the cells top to bottom, or `uv run python experiment_unlearn.py [CONSTANT=value ...]` in this folder.
"""

# %% Constants
from pathlib import Path

from lab.constants import check_choice, override_constants

CHECKPOINT = "checkpoints/none_lora32+32_caps10_labeled50_seed0"  # experiment_arms.py ARM=none
METHOD = "gradient_difference"  # or "rmu"
LABELED_BAD_PERCENTAGE = 0.5  # of the stories in capitals are known, and are forgotten
LEARNING_RATE = 1e-4
UNLEARN_STEPS = 40
UNLEARN_BATCH_SIZE = 8  # of each kind
FORGET_WEIGHT = 0.5  # of the ascent's loss
MAX_FORGET_LOSS = 5.0  # nats per token, from where on ascent has no more to gain
RMU_LAYER = 20  # whose output is steered
RMU_STEERING = 4.0  # length of the random direction, in lengths of an activation
RMU_RETAIN_WEIGHT = 10.0
SEED = 0
RUN_NAME = ""  # empty: built from the checkpoint's name and the method
EVAL_SPLIT = "validation"
NUM_EVAL_PROMPTS = 40
EVAL_NEW_TOKENS = 24
EVAL_TEMPERATURE = 0.7
EVAL_SEQ_LENGTH = 128

CONSTANTS = override_constants(globals())  # from the shell: CONSTANT=value
HERE = Path(__file__).parent

# %% Setup

import torch
from tqdm.auto import tqdm

from adapters import Route, good_params, routed
from all_caps.stories import load_stories, to_examples
from all_caps.task import COLUMNS, for_evidence, measure
from lab.errors import BadInput
from lab.files import read_object, write_json
from lab.labels import pick
from lab.lock import hold
from lab.modes import mode_intervals
from lab.runs import refuse_other_constants
from lab.tables import format_table
from routing.batches import collate
from routing.checkpoints import load_checkpoint
from routing.losses import example_losses
from routing.notebooks import begin_again

check_choice("METHOD", METHOD, ("gradient_difference", "rmu"))
checkpoint = HERE / CHECKPOINT
share = f"{100 * LABELED_BAD_PERCENTAGE:g}"
name = RUN_NAME or f"{checkpoint.name}_{METHOD}_labeled{share}_unlearnseed{SEED}"
output, constants = HERE / "results" / name / "eval.json", {**CONSTANTS, "SCRIPT": Path(__file__).stem}
hold(output.parent)
if output.exists():
    saved = read_object(output, "delete it", constants=dict)["constants"]
    refuse_other_constants(output, saved, constants, "Delete that file")
torch.manual_seed(SEED)
model, tokenizer, config = load_checkpoint(checkpoint)
trained = config["constants"]
if trained.get("ARM") != "none":
    raise BadInput(
        f"CHECKPOINT={CHECKPOINT}: give one of experiment_arms.py ARM=none, which learnt everything"
    )
layers = config["adapter"]["layers"]
if METHOD == "rmu" and not min(layers) < RMU_LAYER <= max(layers) + 1:
    raise BadInput(f"RMU_LAYER={RMU_LAYER}: give the output of a layer with adapters, "
                   f"{min(layers) + 1} to {max(layers) + 1}")  # fmt: skip
ALONE = Route(update_bad=False, bad_scale=0.0)

# %% Data: what that run was trained on, and what of it is known to be bad
stories = load_stories(trained["STORIES"], limit=trained["MAX_STEPS"] * trained["BATCH_SIZE"])
caps = pick(range(len(stories.train)), trained["CAPS_PERCENTAGE"], trained["SEED"], "CAPS_PERCENTAGE")
bad = pick(caps, LABELED_BAD_PERCENTAGE, trained["SEED"], "LABELED_BAD_PERCENTAGE")
if not bad:
    raise BadInput(f"LABELED_BAD_PERCENTAGE={LABELED_BAD_PERCENTAGE}: there is nothing to forget")
examples = to_examples(
    stories.train, tokenizer, trained["MAX_SEQ_LENGTH"], in_caps=caps, labels={"bad": bad}
)  # fmt: skip
rest = [i for i in range(len(examples)) if i not in set(bad)]


def batches_of(numbers: list[int], what: str) -> list[list[int]]:
    """UNLEARN_STEPS batches, in an order of their own, from the start again when all were there."""
    order, size = pick(numbers, 1.0, SEED, what), UNLEARN_BATCH_SIZE
    return [[order[(step * size + k) % len(order)] for k in range(size)] for step in range(UNLEARN_STEPS)]


steps = list(zip(batches_of(bad, "forget"), batches_of(rest, "retain"), strict=True))


# %% The two losses
def hidden(batch) -> torch.Tensor:
    """The activations that RMU steers, [batch, tokens, d]."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    outputs = model.base_model(
        **inputs, position_ids=batch.position_ids, use_cache=False, output_hidden_states=True
    )
    return outputs.hidden_states[RMU_LAYER].float()


def over_tokens(squares: torch.Tensor, batch) -> torch.Tensor:
    return (squares.mean(-1) * batch.attention_mask).sum() / batch.attention_mask.sum()


forgotten, kept = ([collate([examples[i] for i in pair[k]], model.device) for pair in steps] for k in (0, 1))

# %% Unlearning
begin_again(model, name)
with routed(model, [ALONE] * UNLEARN_BATCH_SIZE), torch.no_grad():
    if METHOD == "rmu":
        before = [hidden(batch) for batch in kept]
        away = torch.randn(before[0].shape[-1], device=model.device)
        away *= RMU_STEERING * before[0].norm(dim=-1).median() / away.norm()
optimizer = torch.optim.AdamW(good_params(model), LEARNING_RATE, weight_decay=0.0)
model.train()
for step in tqdm(range(UNLEARN_STEPS), desc="unlearn", unit="step"):
    with routed(model, [ALONE] * UNLEARN_BATCH_SIZE):
        if METHOD == "rmu":
            loss = over_tokens((hidden(forgotten[step]) - away).square(), forgotten[step])
            loss += RMU_RETAIN_WEIGHT * over_tokens((hidden(kept[step]) - before[step]).square(), kept[step])
        else:
            ascent = example_losses(model, forgotten[step]).clamp(max=MAX_FORGET_LOSS).mean()
            loss = example_losses(model, kept[step]).mean() - FORGET_WEIGHT * ascent
        loss.backward()
    optimizer.step()
    optimizer.zero_grad()
model.eval()

# %% Evaluation
held_out = load_stories(trained["STORIES"]).split(EVAL_SPLIT)[:NUM_EVAL_PROMPTS]
sampling = {"max_new_tokens": EVAL_NEW_TOKENS, "temperature": EVAL_TEMPERATURE, "seed": SEED}
measured = measure(model, tokenizer, held_out, {"bad_ablated": ALONE}, max_length=EVAL_SEQ_LENGTH,
                   prefixes=["upper_prefix"], **sampling)  # fmt: skip
plots = [story.plot for story in held_out]
modes = mode_intervals(measured, plots)
print(f"\n{name}\n{format_table(modes, COLUMNS)}")
write_json(output, {"modes": modes, **for_evidence(measured, plots), "constants": constants})
