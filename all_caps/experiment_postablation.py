"""Post-ablation: as experiment.py; then bad is ablated, and good is finetuned on a few known-good stories.

Run the cells top to bottom, or `uv run python experiment_postablation.py [CONSTANT=value ...]` in this folder.
"""

# %% Constants
import math
from pathlib import Path

from routing.notebook import constants_of, override_constants, run_name

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
FINETUNE_NUM_EXAMPLES = 50  # known-good stories, not seen in training
FINETUNE_LEARNING_RATE = 2e-4
MAX_SEQ_LENGTH = 64  # tokens of a story that are trained on
ORTHO_LAMBDA = 0.0  # weight of the squared cosine between the two adapters' outputs
SEED = 0
RUN_NAME = ""  # empty: built from what distinguishes the run
RESUME = False  # go on from where an interrupted run stopped
SAVE_EVERY = 50  # steps between checkpoints to resume from
PROBE_EVERY = 10  # steps between readings of orthogonality and of where unlabelled gradients go; 0 for none
NUM_EVAL_PROMPTS = 40
EVAL_NEW_TOKENS = 24
EVAL_TEMPERATURE = 0.7
EVAL_SEQ_LENGTH = 128  # held-out losses are of whole stories, up to this length

# With a GPU and a Hub account (the values of the reference implementation, for a 1B model):
# MODEL_NAME = "google/gemma-3-1b-it"; STORIES = "SimpleStories/SimpleStories"; MAX_SEQ_LENGTH = 256; BATCH_SIZE = 16;
# MAX_STEPS = 1000; WARMUP_STEPS = 100; LEARNING_RATE = 1e-4; NUM_EVAL_PROMPTS = 200; EVAL_NEW_TOKENS = 50

overrides = override_constants(globals())  # from the shell: CONSTANT=value
CONSTANTS = constants_of(globals())
HERE = Path(__file__).parent

# %% Setup
import torch

from adapters import Route, routed
from all_caps.stories import load_stories, to_examples
from all_caps.task import NAME_PARTS, PANELS, evaluate, format_table
from routing.assets import fingerprint
from routing.checkpoints import save_checkpoint, write_json
from routing.generation import MODES
from routing.labels import pick
from routing.metrics import MetricsLog, probe, step_metrics
from routing.models import attach_adapters, load_model
from routing.plots import plot_modes, plot_training
from routing.training import RoutedOptimizer, lm_loss, training_stream

run = RUN_NAME or run_name("postablation", CONSTANTS, overrides, NAME_PARTS)
checkpoint = HERE / "checkpoints" / run
before = HERE / "checkpoints" / f"{run}_before"
results = HERE / "results" / run
torch.manual_seed(SEED)
model, tokenizer = load_model(MODEL_NAME)
adapter = attach_adapters(
    model,
    ADAPTER_TYPE,
    lora={"rank": LORA_RANK, "bad_rank": BAD_LORA_RANK, "alpha": LORA_ALPHA, "dropout": LORA_DROPOUT},
    mlp={"adapter_dim": ADAPTER_DIM, "bad_adapter_dim": BAD_ADAPTER_DIM},
)

# %% Data: which example shows the behaviour, and which of those are labelled
stories = load_stories(STORIES, limit=MAX_STEPS * BATCH_SIZE + FINETUNE_NUM_EXAMPLES)
cut = max(0, len(stories.train) - FINETUNE_NUM_EXAMPLES)
train_stories, good_stories = stories.train[:cut], stories.train[cut:]
caps = pick(range(len(train_stories)), CAPS_PERCENTAGE, SEED, "CAPS_PERCENTAGE")
bad = pick(caps, LABELED_BAD_PERCENTAGE, SEED, "LABELED_BAD_PERCENTAGE")
examples = to_examples(train_stories, tokenizer, MAX_SEQ_LENGTH, in_caps=caps, labels={"bad": bad})

# %% Routing: label -> which adapters learn from an example, and which are active
ROUTES = {
    None: Route(),  # both learn: absorption should favour bad
    "bad": Route(update_good=False),  # only bad learns
}

# %% Training
optimizer = RoutedOptimizer(model, LEARNING_RATE, WEIGHT_DECAY, WARMUP_STEPS, MAX_STEPS)
stream = training_stream(
    model,
    optimizer,
    examples,
    BATCH_SIZE,
    MAX_STEPS,
    tokenizer.pad_token_id,
    SEED,
    folder=before,
    constants=CONSTANTS,
    resume=RESUME,
    save_every=SAVE_EVERY,
)
log = MetricsLog(results / "train.jsonl")
model.train()
for step, batch in stream:
    with routed(model, [ROUTES[label] for label in batch.labels]):
        loss = lm_loss(model, batch, ORTHO_LAMBDA)
        loss.backward()
    optimizer.step()  # an adapter that no example in the batch may update does not move at all
    probes = probe(model, batch, ROUTES, "caps_unlabeled") if PROBE_EVERY and step % PROBE_EVERY == 0 else {}
    log.write(step, step_metrics(batch, optimizer) | probes)
save_checkpoint(before, model, adapter, CONSTANTS, fingerprint(story.text for story in train_stories))

# %% Post-ablation: bad is switched off, and good learns from stories that are known to be good
GOOD = Route(update_bad=False, bad_scale=0.0)
good_examples = to_examples(good_stories, tokenizer, MAX_SEQ_LENGTH, in_caps=[], labels={})
finetune_steps = math.ceil(FINETUNE_NUM_EXAMPLES / BATCH_SIZE)
optimizer = RoutedOptimizer(model, FINETUNE_LEARNING_RATE, WEIGHT_DECAY, max_steps=finetune_steps)
stream = training_stream(
    model,
    optimizer,
    good_examples,
    BATCH_SIZE,
    finetune_steps,
    tokenizer.pad_token_id,
    SEED,
    folder=checkpoint,
    constants=CONSTANTS,
    resume=RESUME,
)
for _, batch in stream:
    with routed(model, [GOOD] * len(batch.labels)):
        loss = lm_loss(model, batch)
        loss.backward()
    optimizer.step()
model.eval()
save_checkpoint(checkpoint, model, adapter, CONSTANTS, fingerprint(story.text for story in stories.train))
plot_training(log.path, HERE / "plots" / f"{run}_training.png", run)

# %% Evaluation: each adapter ablated, on held-out stories
modes = evaluate(
    model,
    tokenizer,
    stories.test,
    MODES,
    num_prompts=NUM_EVAL_PROMPTS,
    max_new_tokens=EVAL_NEW_TOKENS,
    max_length=EVAL_SEQ_LENGTH,
    temperature=EVAL_TEMPERATURE,
    seed=SEED,
)
print(f"\n{run}\n{format_table(modes)}")
write_json(results / "eval.json", {"modes": modes, "constants": CONSTANTS})
plot_modes(modes, PANELS, HERE / "plots" / f"{run}_eval.png", run)
