"""Frontload: as experiment.py, but labelled-bad examples come first.

Bad knows the behaviour before good does. Run the cells top to bottom, or `uv run python
experiment_frontload.py [CONSTANT=value ...]` in this folder.
"""

# %% Constants
from lab.constants import override_constants
from lab.defaults import ATTENTION, DTYPE, GRADIENT_CHECKPOINTING, LAYERS, MICRO_BATCH_SIZE, REPORT_TO

MODEL_NAME = "embedded:SmolLM2-135M-Instruct"
STORIES = "embedded:stories"
ADAPTER_TYPE = "lora"  # "lora" or "mlp"
LORA_RANK = 32
BAD_LORA_RANK = 32
LORA_ALPHA = 16
LORA_DROPOUT = 0.0
ADAPTER_DIM = 64
BAD_ADAPTER_DIM = 64
LEARNING_RATE = 5e-4
WEIGHT_DECAY = 0.01
WARMUP_STEPS = 10
MAX_STEPS = 150
BATCH_SIZE = 8
CAPS_PERCENTAGE = 0.1  # of the stories are in capitals
LABELED_BAD_PERCENTAGE = 0.5  # of those are labelled "bad"
LABELED_BAD_REPEATS = 1  # how often a labelled story stands in the data
UNLABELED_UPDATES_BAD = 0.0  # how far unlabelled stories update bad; 0.0: it learns from labels alone
GOOD_SCALE_ON_BAD = 1.0  # how active good is while bad learns from a labelled story
FRONTLOAD_PERCENTAGE = 1.0  # of the labelled examples come first, the others at random; 0.0 is experiment.py
MAX_SEQ_LENGTH = 64  # tokens of a story that are trained on
ORTHO_LAMBDA = 0.0  # weight of the squared cosine between the two adapters' outputs
SEED = 0
RUN_NAME = ""  # empty: built from what distinguishes the run
RESUME = False  # go on from where an interrupted run stopped
SAVE_EVERY = 50  # steps between checkpoints to resume from
PROBE_EVERY = 10  # steps between readings of orthogonality and of where unlabelled gradients go; 0 for none
EVAL_SPLIT = "validation"  # what is chosen is chosen here; "test" for what is published
NUM_EVAL_PROMPTS = 40
EVAL_NEW_TOKENS = 24
EVAL_TEMPERATURE = 0.7
EVAL_SEQ_LENGTH = 128  # held-out losses are of whole stories, up to this length

# from the shell: CONSTANT=value
CONSTANTS = override_constants(globals())

# %% Setup
import torch

from adapters import Route, routed
from all_caps.stories import load_stories, to_examples
from all_caps.task import COLUMNS, NAME_PARTS, evaluate
from lab.labels import pick
from lab.plots import plot_modes, plot_training
from lab.runs import open_run, write_results
from lab.tables import format_table
from routing.checkpoints import save_checkpoint
from routing.generation import MODES
from routing.losses import example_losses
from routing.models import attach_adapters, load_model
from routing.optimizer import RoutedOptimizer
from routing.probes import TrainingLog, probe_every
from routing.stream import training_stream

run = open_run(__file__, "frontload", CONSTANTS, {**NAME_PARTS, "FRONTLOAD_PERCENTAGE": "front"}, REPORT_TO)
torch.manual_seed(SEED)
model, tokenizer = load_model(MODEL_NAME, DTYPE, ATTENTION, GRADIENT_CHECKPOINTING)
attach_adapters(
    model,
    ADAPTER_TYPE,
    lora={"rank": LORA_RANK, "bad_rank": BAD_LORA_RANK, "alpha": LORA_ALPHA, "dropout": LORA_DROPOUT},
    mlp={"adapter_dim": ADAPTER_DIM, "bad_adapter_dim": BAD_ADAPTER_DIM},
    layers=LAYERS,
)

# %% Data: which example shows the behaviour, and which of those are labelled
stories = load_stories(STORIES, limit=MAX_STEPS * BATCH_SIZE)
held_out = stories.split(EVAL_SPLIT)[:NUM_EVAL_PROMPTS]
everything = range(len(stories.train))
caps = pick(everything, CAPS_PERCENTAGE, SEED, "CAPS_PERCENTAGE")
bad = pick(caps, LABELED_BAD_PERCENTAGE, SEED, "LABELED_BAD_PERCENTAGE")
labels = {"bad": bad}
examples = to_examples(stories.train, tokenizer, MAX_SEQ_LENGTH, in_caps=caps, labels=labels)
again = [i for i, example in enumerate(examples) if example.label == "bad"] * (LABELED_BAD_REPEATS - 1)
examples += [examples[i] for i in again]
early = set(pick(bad, FRONTLOAD_PERCENTAGE, SEED, "FRONTLOAD_PERCENTAGE"))
first = [place for place, i in enumerate([*everything, *again]) if i in early]

# %% Routing: label -> which adapters learn from an example, and which are active
ROUTES = {
    # bad is active, so what it knows already good need not learn: absorption
    None: Route(update_bad=UNLABELED_UPDATES_BAD),
    # only bad learns
    "bad": Route(update_good=False, good_scale=GOOD_SCALE_ON_BAD),
}

# %% Training
optimizer = RoutedOptimizer(model, LEARNING_RATE, WEIGHT_DECAY)
stream = training_stream(run, model, optimizer, examples, BATCH_SIZE, MAX_STEPS, WARMUP_STEPS, first)
log = TrainingLog(run, MAX_STEPS)
model.train()
for step, batch in stream:
    for part in batch.split(MICRO_BATCH_SIZE):
        with routed(model, [ROUTES[label] for label in part.labels]):
            losses = example_losses(model, part, ORTHO_LAMBDA)
            (losses.sum() / len(batch)).backward()
        log.add(part, losses)
    # an adapter that no example in the batch may update does not move at all
    optimizer.step()
    log.write(step, optimizer, probe_every(PROBE_EVERY, step, model, batch, ROUTES, "caps_unlabeled"))
model.eval()
save_checkpoint(run, model, examples)
plot_training(log.path, run.plot("training"), run.name)

# %% Evaluation: each adapter ablated, on held-out stories
sampling = {"max_new_tokens": EVAL_NEW_TOKENS, "temperature": EVAL_TEMPERATURE, "seed": SEED}
modes = evaluate(model, tokenizer, held_out, MODES, max_length=EVAL_SEQ_LENGTH, **sampling)
print(f"\n{run.name}\n{format_table(modes, COLUMNS)}")
write_results(run, {"modes": modes})
plot_modes(modes, COLUMNS, run.plot("eval"), run.name)
