"""Arms: as experiment.py, or a method that routing has to beat, from the same base on the same stories.

Every method is a table of routes, and evidence.py runs a grid of them. Run the cells top to bottom,
or `uv run python experiment_arms.py [CONSTANT=value ...]` in this folder.
"""

# %% Constants
from lab.constants import check_choice, override_constants
from lab.defaults import ATTENTION, DTYPE, GRADIENT_CHECKPOINTING, LAYERS, MICRO_BATCH_SIZE, REPORT_TO

MODEL_NAME = "embedded:SmolLM2-135M-Instruct"
STORIES = "embedded:stories"
ARM = "route"  # a key of ARMS below
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
MISLABELED_PERCENTAGE = 0.0  # of the normal stories are labelled "bad" by mistake
LABELED_GOOD_PERCENTAGE = 0.0  # of the other normal stories are labelled "good": bad is ablated there
ANNOUNCEMENT = "A story in capital letters.\n"  # stands before labelled stories in the arm "inoculation"
GOOD_SCALE_ON_BAD = 1.0  # how active good is while bad learns from a labelled story
DETECTOR_STEPS = 30  # of the arm "filter_detected": bad learns what labelled stories are like
EVAL_SHRUNK_TO = 0.6  # arm "none" is also evaluated with what it learnt scaled down to this
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

CONSTANTS = override_constants(globals())  # from the shell: CONSTANT=value

# %% Setup
import torch

from adapters import Route, routed
from all_caps.stories import load_stories, to_examples
from all_caps.task import COLUMNS, NAME_PARTS, for_evidence, measure
from lab.labels import pick
from lab.modes import mode_intervals
from lab.plots import plot_training
from lab.runs import open_run, write_results
from lab.tables import format_table
from routing.batches import announce
from routing.checkpoints import save_checkpoint
from routing.classifier import label_classified
from routing.detection import label_detected
from routing.generation import MODES
from routing.losses import example_losses
from routing.models import attach_adapters, load_model
from routing.optimizer import RoutedOptimizer
from routing.probes import TrainingLog, probe_every
from routing.stream import training_stream

run = open_run(__file__, ARM, CONSTANTS, NAME_PARTS, REPORT_TO)
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
normal = sorted(set(everything) - set(caps))
bad += pick(normal, MISLABELED_PERCENTAGE, SEED, "MISLABELED_PERCENTAGE")
good = pick(sorted(set(normal) - set(bad)), LABELED_GOOD_PERCENTAGE, SEED, "LABELED_GOOD_PERCENTAGE")
if ARM == "random_labels":
    mixed = pick(everything, 1.0, SEED, "random labels")
    bad, good = mixed[: len(bad)], mixed[len(bad) :][: len(good)]
labels = {"bad": bad, "good": good}
examples = to_examples(stories.train, tokenizer, MAX_SEQ_LENGTH, in_caps=caps, labels=labels)
if ARM == "inoculation":
    examples = [announce(e, tokenizer, ANNOUNCEMENT) if e.label == "bad" else e for e in examples]
if ARM == "filter_detected":
    examples = label_detected(model, examples, DETECTOR_STEPS, BATCH_SIZE, LEARNING_RATE, SEED)
examples = label_classified(examples) if ARM == "filter_classified" else examples
detected = [example.kind for example in examples if example.label == "detected"]
examples += [example for example in examples if example.label == "bad"] * (LABELED_BAD_REPEATS - 1)
if ARM == "trusted":
    examples = [example for example in examples if example.label == "good"]

# an adapter by itself, of the capacity that an ablation leaves: plain fine-tuning
ALONE = Route(update_bad=False, bad_scale=0.0)
# nothing learns from it, as if it had been deleted; the others keep their places and order
DELETED = Route(update_good=False, update_bad=False)
ROUTED = {
    None: Route(update_bad=UNLABELED_UPDATES_BAD),
    "bad": Route(update_good=False, good_scale=GOOD_SCALE_ON_BAD),
    "good": ALONE,
}
PLAIN = {None: ALONE, "bad": ALONE, "good": ALONE}
FILTERED = PLAIN | {"bad": DELETED, "detected": DELETED}
ARMS = {
    "route": ROUTED,
    "none": PLAIN,  # one adapter learns everything
    "filter": FILTERED,  # labelled stories are deleted; with all labelled: never seen
    "filter_detected": FILTERED,  # and what bad, trained as a detector, finds like them
    "filter_classified": FILTERED,  # and what a classifier of words finds like them
    "trusted": PLAIN,  # trained on what is labelled good alone, again and again
    "random_labels": ROUTED,  # as many labels as before, on any stories
    "inoculation": PLAIN,  # labelled stories stand behind a line that announces them; nothing is ablated
}
check_choice("ARM", ARM, ARMS)
ROUTES = ARMS[ARM]

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
    log.write(step, optimizer, probe_every(PROBE_EVERY, step, model, batch, ROUTES, "caps_unlabeled"))
model.eval()
save_checkpoint(run, model, examples)
plot_training(log.path, run.plot("training"), run.name)

# %% Evaluation: what is kept, and the whole where that is more
sampling = {"max_new_tokens": EVAL_NEW_TOKENS, "temperature": EVAL_TEMPERATURE, "seed": SEED}
shown = {mode: MODES[mode] for mode in (["full", "bad_ablated"] if ROUTES is ROUTED else ["bad_ablated"])}
if ARM == "none":
    shown["shrunk"] = Route(good_scale=EVAL_SHRUNK_TO, bad_scale=0.0)
asked = {"max_length": EVAL_SEQ_LENGTH, "prefixes": ["upper_prefix"]}
measured = measure(model, tokenizer, held_out, shown, **asked, **sampling)
plots = [story.plot for story in held_out]
modes = mode_intervals(measured, plots)
print(f"\n{run.name}\n{format_table(modes, COLUMNS)}")
write_results(run, {"modes": modes, **for_evidence(measured, plots), "detected": detected})
