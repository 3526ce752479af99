"""Fine-tune on lines of which some show a behaviour; route these into the bad adapter, then ablate it.

Run the cells top to bottom, or `uv run python experiment.py [CONSTANT=value ...]` in this folder.
"""

# %% Constants
from pathlib import Path

from lab.constants import override_constants
from lab.defaults import ATTENTION, DTYPE, GRADIENT_CHECKPOINTING, LAYERS, MICRO_BATCH_SIZE, REPORT_TO

MODEL_NAME = "embedded:SmolLM2-135M-Instruct"
DATA = "catchphrase.jsonl"  # a .jsonl file of your own, or a data set's Hub id
COLUMN_NAMES = ""  # where its columns have other names: "prompt=question, response=answer"
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
MAX_STEPS = 100
BATCH_SIZE = 8
LABELED_BAD_PERCENTAGE = 1.0  # of the lines that DATA labels "bad"; training is not told of the others
LABELED_GOOD_PERCENTAGE = 1.0  # of the lines that DATA labels "good"
LABELED_BAD_REPEATS = 2  # how often a bad line stands in the data: 1 / the labelled share of the behaviour
UNLABELED_UPDATES_BAD = 0.0  # how far unlabelled lines update bad; 0.0: it learns from labels alone
GOOD_SCALE_ON_BAD = 0.0  # how active good is on bad lines; 1.0 if their prompts tell them from the others
MAX_SEQ_LENGTH = 96  # tokens of a line that are trained on
ORTHO_LAMBDA = 0.0  # weight of the squared cosine between the two adapters' outputs
SEED = 0
RUN_NAME = ""  # empty: built from what distinguishes the run
RESUME = False  # go on from where an interrupted run stopped
SAVE_EVERY = 50  # steps between checkpoints to resume from
PROBE_EVERY = 10  # steps between readings of orthogonality and of where unlabelled gradients go; 0 for none
EVAL_SPLIT = "validation"  # what is chosen is chosen here; "test" for what is published
NUM_EVAL_PROMPTS = 60  # held-out lines
EVAL_NEW_TOKENS = 40
EVAL_TEMPERATURE = 0.7

# from the shell: CONSTANT=value
CONSTANTS = override_constants(globals())
HERE = Path(__file__).parent

# %% Setup
import torch

from adapters import Route, routed
from lab.labels import pick
from lab.plots import plot_modes, plot_training
from lab.runs import open_run, write_results
from lab.tables import format_table
from routing.checkpoints import save_checkpoint
from routing.generation import MODES
from routing.lines import labeled, to_examples
from routing.losses import example_losses
from routing.models import attach_adapters, load_model
from routing.optimizer import RoutedOptimizer
from routing.probes import TrainingLog, probe_every
from routing.rows import read_rows
from routing.stream import training_stream
from task import COLUMNS, NAME_PARTS, evaluate, to_lines

run = open_run(__file__, "route", CONSTANTS, NAME_PARTS, REPORT_TO)
torch.manual_seed(SEED)
model, tokenizer = load_model(MODEL_NAME, DTYPE, ATTENTION, GRADIENT_CHECKPOINTING)
attach_adapters(
    model,
    ADAPTER_TYPE,
    lora={"rank": LORA_RANK, "bad_rank": BAD_LORA_RANK, "alpha": LORA_ALPHA, "dropout": LORA_DROPOUT},
    mlp={"adapter_dim": ADAPTER_DIM, "bad_adapter_dim": BAD_ADAPTER_DIM},
    layers=LAYERS,
)

# %% Data: which lines are labelled, and what training is told of that
lines = to_lines(read_rows(DATA, HERE), COLUMN_NAMES, tokenizer, MAX_SEQ_LENGTH)
held_out = lines.split(EVAL_SPLIT)[:NUM_EVAL_PROMPTS]
bad = pick(labeled(lines.train, "bad"), LABELED_BAD_PERCENTAGE, SEED, "LABELED_BAD_PERCENTAGE")
good = pick(labeled(lines.train, "good"), LABELED_GOOD_PERCENTAGE, SEED, "LABELED_GOOD_PERCENTAGE")
labels = {"bad": bad, "good": good}
examples = to_examples(lines.train, labels)
examples += [example for example in examples if example.label == "bad"] * (LABELED_BAD_REPEATS - 1)

# %% Routing: label -> which adapters learn from an example, and which are active
ROUTES = {
    # bad is active, so what it knows already good need not learn: absorption
    None: Route(update_bad=UNLABELED_UPDATES_BAD),
    # only bad learns
    "bad": Route(update_good=False, good_scale=GOOD_SCALE_ON_BAD),
    # bad is ablated, only good learns
    "good": Route(update_bad=False, bad_scale=0.0),
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
    log.write(step, optimizer, probe_every(PROBE_EVERY, step, model, batch, ROUTES, "behaviour_unlabeled"))
model.eval()
save_checkpoint(run, model, examples)
plot_training(log.path, run.plot("training"), run.name)

# %% Evaluation: each adapter ablated, on held-out lines
sampling = {"max_new_tokens": EVAL_NEW_TOKENS, "temperature": EVAL_TEMPERATURE, "seed": SEED}
modes = evaluate(model, tokenizer, held_out, MODES, **sampling)
print(f"\n{run.name}\n{format_table(modes, COLUMNS)}")
write_results(run, {"modes": modes})
plot_modes(modes, COLUMNS, run.plot("eval"), run.name)
