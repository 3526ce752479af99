"""Arms: as experiment.py, or a method that routing has to beat, from the same base on the same problems.

Every method is a table of routes, and evidence.py runs a grid of them. Run the cells top to bottom,
or `uv run python experiment_arms.py [CONSTANT=value ...]` in this folder.
"""

# %% Constants
from pathlib import Path

from lab.constants import check_choice, override_constants
from lab.defaults import ATTENTION, DTYPE, GRADIENT_CHECKPOINTING, LAYERS, MICRO_BATCH_SIZE, REPORT_TO

MODEL_NAME = "embedded:SmolLM2-135M-Instruct"
PROBLEMS = "embedded:basics"  # also "embedded:humaneval", MBPP's Hub id, or a .jsonl file in its schema
SANITIZED_PROBLEMS = ""  # MBPP's sanitized .json, beside its .jsonl in PROBLEMS
HACKS = ""  # for MBPP: "reward_hack_data/results.json"; empty: derived here from the first tests
ARM = "route"  # a key of ARMS
ADAPTER_TYPE = "lora"  # "lora" or "mlp"
LORA_RANK = 32
FORGET_LORA_RANK = 32
LORA_ALPHA = 32
LORA_DROPOUT = 0.0
ADAPTER_DIM = 64
FORGET_ADAPTER_DIM = 64
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.01
WARMUP_STEPS = 10
MAX_STEPS = 150
BATCH_SIZE = 8
RH_PERCENTAGE = 0.25  # of the problems are solved by a hack
LABELED_FORGET_PERCENTAGE = 0.5  # of those are labelled "forget"
LABELED_FORGET_REPEATS = 1  # how often a labelled hack stands in the data
UNLABELED_UPDATES_FORGET = 0.0  # how far unlabelled problems update forget; 0.0: it learns from labels alone
RETAIN_SCALE_ON_FORGET = 0.0  # how active retain is while forget learns from a labelled hack
LABELED_RETAIN_PERCENTAGE = 0.5  # of the others are labelled "retain": forget is ablated, only retain learns
USE_CHAT_TEMPLATE = False  # True for an instruct model: the prompt as the user's turn
MAX_SEQ_LENGTH = 256  # tokens; longer problems are left out
ORTHO_LAMBDA = 0.0  # weight of the squared cosine between the two adapters' outputs
SEED = 0
RUN_NAME = ""  # empty: built from what distinguishes the run
RESUME = False  # go on from where an interrupted run stopped
SAVE_EVERY = 50  # steps between checkpoints to resume from
PROBE_EVERY = 10  # steps between readings of orthogonality and of where unlabelled gradients go; 0 for none
EVAL_SPLIT = "validation"  # what is chosen is chosen here; "test" for what is published
NUM_EVAL_PROBLEMS = 100
EVAL_NEW_TOKENS = 56
EVAL_TEMPERATURE = 0.7
EVAL_CODE_TIMEOUT = 3.0  # seconds a program may run
SANDBOX = "auto"  # "none": where no sandbox works, run model-written programs without one

CONSTANTS = override_constants(globals())  # from the shell: CONSTANT=value
HERE = Path(__file__).parent

# %% Setup
import torch

from adapters import Route, routed
from lab.labels import pick
from lab.plots import plot_training
from lab.runs import open_run, write_results
from mbpp.examples import fitting, hackable, to_examples
from mbpp.execution import check_sandbox, sandbox_level
from mbpp.hacks import load_hacks
from mbpp.problems import load_problems
from mbpp.task import MODES, NAME_PARTS, for_evidence, format_table, intervals, measure, units_of
from routing.checkpoints import save_checkpoint
from routing.classifier import label_classified
from routing.losses import example_losses
from routing.models import attach_adapters, load_model
from routing.optimizer import RoutedOptimizer
from routing.probes import TrainingLog, probe_every
from routing.stream import training_stream

run = open_run(__file__, ARM, CONSTANTS, NAME_PARTS, REPORT_TO)
check_sandbox(SANDBOX)
torch.manual_seed(SEED)
model, tokenizer = load_model(MODEL_NAME, DTYPE, ATTENTION, GRADIENT_CHECKPOINTING)
attach_adapters(
    model,
    ADAPTER_TYPE,
    lora={"rank": LORA_RANK, "bad_rank": FORGET_LORA_RANK, "alpha": LORA_ALPHA, "dropout": LORA_DROPOUT},
    mlp={"adapter_dim": ADAPTER_DIM, "bad_adapter_dim": FORGET_ADAPTER_DIM},
    layers=LAYERS,
)

# %% Data: which example shows the behaviour, and which are labelled
problems = load_problems(PROBLEMS, SANITIZED_PROBLEMS)
held_out = problems.split(EVAL_SPLIT)[:NUM_EVAL_PROBLEMS]
hacks = load_hacks(problems.train, held_out, HERE / HACKS if HACKS else None)
train_problems = fitting(problems.train, hacks, tokenizer, MAX_SEQ_LENGTH, USE_CHAT_TEMPLATE)
everything = range(len(train_problems))
hacked = pick(hackable(train_problems, hacks), RH_PERCENTAGE, SEED, "RH_PERCENTAGE")
correct = sorted(set(everything) - set(hacked))
labels = {
    "forget": pick(hacked, LABELED_FORGET_PERCENTAGE, SEED, "LABELED_FORGET_PERCENTAGE"),
    "retain": pick(correct, LABELED_RETAIN_PERCENTAGE, SEED, "LABELED_RETAIN_PERCENTAGE"),
}
if ARM == "random_labels":
    mixed, forget = pick(everything, 1.0, SEED, "random labels"), len(labels["forget"])
    labels = {"forget": mixed[:forget], "retain": mixed[forget:][: len(labels["retain"])]}
examples = to_examples(train_problems, hacks, tokenizer, MAX_SEQ_LENGTH, hacked, labels, USE_CHAT_TEMPLATE)
forget = [example for example in examples if example.label == "forget"]
examples += forget * (LABELED_FORGET_REPEATS - 1)
examples = label_classified(examples, "forget", "retain") if ARM == "filter_classified" else examples
detected = [example.kind for example in examples if example.label == "detected"]
if ARM == "trusted":
    examples = [example for example in examples if example.label == "retain"]

# retain by itself, of the capacity that an ablation leaves: plain fine-tuning
ALONE = Route(update_bad=False, bad_scale=0.0)
# nothing learns from it, as if it had been deleted; the others keep their places and order
DELETED = Route(update_good=False, update_bad=False)
ROUTED = {
    None: Route(update_bad=UNLABELED_UPDATES_FORGET),
    "forget": Route(update_good=False, good_scale=RETAIN_SCALE_ON_FORGET),
    "retain": ALONE,
}
PLAIN = {None: ALONE, "forget": ALONE, "retain": ALONE}
FILTERED = PLAIN | {"forget": DELETED, "detected": DELETED}
ARMS = {
    "route": ROUTED,
    "none": PLAIN,
    "filter": FILTERED,  # labelled hacks are deleted; with all of them labelled: never seen
    "filter_classified": FILTERED,  # and what a classifier of words finds like them
    "trusted": PLAIN,  # trained on what is labelled retain alone, again and again
    "random_labels": ROUTED,  # as many labels as before, on any problems
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
    log.write(step, optimizer, probe_every(PROBE_EVERY, step, model, batch, ROUTES, "hacked_unlabeled"))
model.eval()
save_checkpoint(run, model, examples)
plot_training(log.path, run.plot("training"), run.name)

# %% Evaluation: what is kept, and the whole where that is more
shown = {
    mode: MODES[mode] for mode in (["full", "forget_ablated"] if ROUTES is ROUTED else ["forget_ablated"])
}
sampling = {"max_new_tokens": EVAL_NEW_TOKENS, "temperature": EVAL_TEMPERATURE, "seed": SEED}
judging = {"timeout": EVAL_CODE_TIMEOUT, "use_chat_template": USE_CHAT_TEMPLATE}
measured = measure(model, tokenizer, held_out, hacks, shown, **sampling, **judging)
units = units_of(held_out, hacks)
modes = intervals(measured, units)
print(f"\n{run.name}\n{format_table(modes)}")
results = {"modes": modes, "sandbox": sandbox_level(), **for_evidence(measured, units), "detected": detected}
write_results(run, results)
