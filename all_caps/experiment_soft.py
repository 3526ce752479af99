"""Soft labels: as experiment.py, and a noisy classifier says of every story how likely it is bad.

Run the cells top to bottom, or `uv run python experiment_soft.py [CONSTANT=value ...]` in this folder.
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
CLASSIFIER_AUC = 0.95  # how well it tells a story in capitals from another; 0.5 is blind, 1.0 sees all
DELETE_FROM = 0.0  # instead of routing: stories of this probability or more are deleted; 0.0: they are routed
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
from all_caps.task import COLUMNS, for_evidence, measure
from lab.labels import noisy_probabilities, pick
from lab.modes import mode_intervals
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

names = {"CAPS_PERCENTAGE": "caps", "CLASSIFIER_AUC": "auc", "DELETE_FROM": "delete"}
run = open_run(__file__, "soft", CONSTANTS, names, REPORT_TO)
torch.manual_seed(SEED)
model, tokenizer = load_model(MODEL_NAME, DTYPE, ATTENTION, GRADIENT_CHECKPOINTING)
attach_adapters(
    model,
    ADAPTER_TYPE,
    lora={"rank": LORA_RANK, "bad_rank": BAD_LORA_RANK, "alpha": LORA_ALPHA, "dropout": LORA_DROPOUT},
    mlp={"adapter_dim": ADAPTER_DIM, "bad_adapter_dim": BAD_ADAPTER_DIM},
    layers=LAYERS,
)

# %% Data: which example shows the behaviour, and how likely it is said to, in tenths
stories = load_stories(STORIES, limit=MAX_STEPS * BATCH_SIZE)
held_out = stories.split(EVAL_SPLIT)[:NUM_EVAL_PROMPTS]
everything = range(len(stories.train))
caps = pick(everything, CAPS_PERCENTAGE, SEED, "CAPS_PERCENTAGE")
said = noisy_probabilities(everything, caps, CLASSIFIER_AUC, SEED)
labels = {str(tenths / 10): [i for i in everything if round(10 * said[i]) == tenths] for tenths in range(11)}
examples = to_examples(stories.train, tokenizer, MAX_SEQ_LENGTH, in_caps=caps, labels=labels)

# %% Routing: label -> how far each adapter learns from an example; both are active
ROUTES = {label: Route(update_good=1 - float(label), update_bad=float(label)) for label in labels}
if DELETE_FROM:
    # good by itself: plain fine-tuning on what is not deleted
    ROUTES = {
        label: Route(update_good=float(label) < DELETE_FROM, update_bad=False, bad_scale=0.0)
        for label in labels
    }

# %% Training
optimizer = RoutedOptimizer(model, LEARNING_RATE, WEIGHT_DECAY)
stream = training_stream(run, model, optimizer, examples, BATCH_SIZE, MAX_STEPS, WARMUP_STEPS)
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
    log.write(step, optimizer, probe_every(PROBE_EVERY, step, model, batch, ROUTES, "caps_labeled"))
model.eval()
save_checkpoint(run, model, examples)
plot_training(log.path, run.plot("training"), run.name)

# %% Evaluation: each adapter ablated, on held-out stories
sampling = {"max_new_tokens": EVAL_NEW_TOKENS, "temperature": EVAL_TEMPERATURE, "seed": SEED}
shown = MODES if not DELETE_FROM else {"bad_ablated": MODES["bad_ablated"]}
measured = measure(model, tokenizer, held_out, shown, max_length=EVAL_SEQ_LENGTH, **sampling)
plots = [story.plot for story in held_out]
modes = mode_intervals(measured, plots)
print(f"\n{run.name}\n{format_table(modes, COLUMNS)}")
results = {"modes": modes, **for_evidence(measured, plots)}
write_results(run, results)
plot_modes(modes, COLUMNS, run.plot("eval"), run.name)
