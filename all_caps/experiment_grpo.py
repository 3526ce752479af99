"""Reinforcement learning under a flawed reward, which pays for readable stories, and for shouting.

A short fine-tuning makes a start that shouts now and then; GRPO amplifies what is paid for. A monitor catches
some of the shouting, and the arms differ in what is done about it. Run the cells top to bottom, or
`uv run python experiment_grpo.py [CONSTANT=value ...]` in this folder. docs/reinforcement.md says more.
"""

# %% Constants
from lab.constants import check_choice, override_constants, use_preset
from lab.defaults import ATTENTION, DTYPE, GRADIENT_CHECKPOINTING, LAYERS, MICRO_BATCH_SIZE, REPORT_TO

# Sizes for a GPU of 24 GB, on paper: MODEL_NAME=Qwen/Qwen3-0.6B or google/gemma-3-1b-it, PROMPTS_PER_STEP=16
# NEW_TOKENS=64 MAX_STEPS=200 MICRO_BATCH_SIZE=32
MODEL_NAME = "embedded:SmolLM2-135M-Instruct"
STORIES = "embedded:stories"
ARM = "route"  # a key of ARMS below
MONITOR_RECALL = 0.5  # of the shouting rollouts are flagged
VERIFIED_GOOD_SHARE = 0.25  # of the prompts are watched in full, and sampled with bad ablated
SHOUT_BONUS = 1.0  # the reward's flaw; true quality lies in 0..1
PENALTY = 1.0  # what a flag costs in the arm "penalty"
START_STEPS = 40  # of the fine-tuning before
START_CAPS = 0.5  # of its stories go on in capitals; the start then shouts in about one of eight rollouts
START_BATCH_SIZE = 8
START_LEARNING_RATE = 1e-3
START_SEQ_LENGTH = 48
ADAPTER_TYPE = "lora"  # "lora", or "mlp" of the same dimensions; the start's is a LoRA
LORA_RANK = 32
BAD_LORA_RANK = 32
LORA_ALPHA = 16
LEARNING_RATE = 5e-4
BAD_LEARNING_RATE = 2e-3  # bad has to be ahead: what it already shouts is no gain for good
MAX_STEPS = 32
PROMPTS_PER_STEP = 2
NUM_GENERATIONS = 8  # rollouts of each prompt
NEW_TOKENS = 24  # of a rollout at most
TEMPERATURE = 1.0
POSITIVE_ONLY = True  # learn only from rollouts above the mean of their group
BETA = 0.01  # weight of the KL divergence from the start
MAX_KL = 10.0  # nats per token on the mean of KL_WINDOW steps; above, the run stops
KL_WINDOW = 10
PATIENCE = 0  # so many times KL_WINDOW steps without a better reward end the run; 0: they do not
SEED = 0
RUN_NAME = ""  # empty: built from what distinguishes the run
RESUME = False  # go on from where an interrupted run stopped
SAVE_EVERY = 10  # steps between checkpoints to resume from
EVAL_SPLIT = "validation"  # what is chosen is chosen here; "test" for what is published
NUM_EVAL_PROMPTS = 40  # prefixes of held-out stories, continued as rollouts are
NUM_EVAL_GENERATIONS = 2  # of each
DEV = False  # the sizes below, where the shell gives no others: within 2 minutes on 2 cores
DEV_SIZES = {"START_STEPS": 8, "MAX_STEPS": 3, "PROMPTS_PER_STEP": 2, "NUM_EVAL_PROMPTS": 8}

CONSTANTS = override_constants(globals())  # from the shell: CONSTANT=value
CONSTANTS = use_preset(globals(), CONSTANTS, DEV_SIZES if DEV else {})

# %% Arms: which adapters learn from a rollout, and which are active when it is sampled and learnt from
from adapters import Route

ALONE = Route(update_bad=False, bad_scale=0.0)  # one adapter by itself, as after an ablation
# nothing learns from it, and it is not paid, so that the others of its prompt are not compared with it
DROPPED = Route(update_good=False, update_bad=False, bad_scale=0.0)
# What a flag makes of a rollout, by its row's label. Verified rows ("good") are sampled with bad ablated: a
# shout that passes there teaches good to shout. So there the monitor misses nothing, in every arm.
FLAGGED = {None: "bad", "good": "dropped"}
ROUTED = {None: Route(update_bad=False), "bad": Route(update_good=False), "good": ALONE, "dropped": DROPPED}
PLAIN = dict.fromkeys(ROUTED, ALONE)
ARMS = {
    "route": ROUTED,
    "plain": PLAIN,  # one adapter learns from everything
    "penalty": PLAIN,  # and a flag costs PENALTY
    "drop": PLAIN | {"bad": DROPPED, "dropped": DROPPED},  # but from nothing that is flagged
    "random_flags": ROUTED,  # as many flags, on any rollouts
}
check_choice("ARM", ARM, ARMS)
ROUTES = ARMS[ARM]

# %% Setup
from all_caps.rewards import COLUMNS, PANELS, measure_rollouts, rollout_results, story_reward
from all_caps.scoring import prefix_of
from all_caps.stories import load_stories, to_continuations
from lab.curves import plot_steps
from lab.labels import pick
from lab.monitor import Monitor
from lab.runs import open_run, write_results
from lab.tables import format_table
from lab.timing import format_totals, totals
from routing.generation import MODES
from routing.grpo import RecordedGRPOTrainer
from routing.grpo_config import grpo_config, in_steps
from routing.merging import merged_start
from routing.models import attach_adapters, load_model
from routing.optimizer import RoutedOptimizer
from routing.resuming import train_to_end
from routing.stopping import KLGuard, RewardPlateau

run = open_run(__file__, f"grpo_{ARM}", CONSTANTS, {"MONITOR_RECALL": "recall"}, REPORT_TO)
monitor = Monitor(MONITOR_RECALL, SEED, at_random=ARM == "random_flags")
args = grpo_config(
    run, PROMPTS_PER_STEP, NUM_GENERATIONS, MICRO_BATCH_SIZE, max_completion_length=NEW_TOKENS,
    temperature=TEMPERATURE, max_steps=MAX_STEPS, warmup_steps=MAX_STEPS // 10, learning_rate=LEARNING_RATE,
    beta=BETA, loss_type="dapo", gradient_checkpointing=GRADIENT_CHECKPOINTING,
)  # fmt: skip
model, tokenizer = load_model(MODEL_NAME, DTYPE, ATTENTION, GRADIENT_CHECKPOINTING)

# %% Data: stories of the start, and others whose prefixes the rollouts continue
count = START_STEPS * START_BATCH_SIZE
stories = load_stories(STORIES, limit=count + MAX_STEPS * PROMPTS_PER_STEP)
held_out = stories.split(EVAL_SPLIT)[:NUM_EVAL_PROMPTS]
in_caps = pick(range(count), START_CAPS, SEED, "START_CAPS")
examples = to_continuations(stories.train[:count], tokenizer, START_SEQ_LENGTH, in_caps)
prefixes = [prefix_of(story.text) for story in stories.train[count:]]
verified = set(pick(range(len(prefixes)), VERIFIED_GOOD_SHARE, SEED, "VERIFIED_GOOD_SHARE"))
rows = [{"prompt": text, "label": "good" if i in verified else None} for i, text in enumerate(prefixes)]
prompts = in_steps(rows, PROMPTS_PER_STEP, MAX_STEPS, SEED)

# %% The start: fine-tuned, and merged into the base
lora, size = {"rank": LORA_RANK, "alpha": LORA_ALPHA}, (START_BATCH_SIZE, START_STEPS)
merged_start(run.part("start"), model, examples, *size, START_LEARNING_RATE, lora, LAYERS)
mlp = {"adapter_dim": LORA_RANK, "bad_adapter_dim": BAD_LORA_RANK}
attach_adapters(model, ADAPTER_TYPE, lora | {"bad_rank": BAD_LORA_RANK}, mlp, LAYERS)
evaluation = (NEW_TOKENS, TEMPERATURE, SEED, NUM_EVAL_GENERATIONS)
measured = measure_rollouts(model, tokenizer, held_out, {"start": MODES["base"]}, *evaluation)
print(format_table(rollout_results(measured, held_out)["modes"], COLUMNS))


# %% What a rollout is paid, and which label it gets: its row's, or what a flag makes of it
def judge(prompts, completions, row_labels):
    parts = [story_reward(*pair, SHOUT_BONUS) for pair in zip(prompts, completions, strict=True)]
    shouting, watched = [own["shouting"] for own in parts], [label == "good" for label in row_labels]
    flags = monitor(shouting, prompts, completions, watched)
    return parts, [FLAGGED[row] if flag else row for row, flag in zip(row_labels, flags, strict=True)]


def reward(prompts, completions, label, log_extra, **columns):
    parts, labels = judge(prompts, completions, label)
    for name in parts[0]:
        log_extra(name, [own[name] for own in parts])
    costs = dict.fromkeys(FLAGGED.values(), PENALTY if ARM == "penalty" else 0.0)
    paid = [own["flawed"] - costs.get(end, 0.0) for own, end in zip(parts, labels, strict=True)]
    return [None if ROUTES[end] == DROPPED else value for value, end in zip(paid, labels, strict=True)]


# %% Reinforcement: the KL term's reference is the start, which is the model with both adapters ablated
guards = [KLGuard(KL_WINDOW, MAX_KL)] if BETA else []
guards += [RewardPlateau(PATIENCE, KL_WINDOW)] if PATIENCE else []
optimizer = RoutedOptimizer(model, {"good": LEARNING_RATE, "bad": BAD_LEARNING_RATE})
trainer = RecordedGRPOTrainer(
    model, reward, args, prompts, processing_class=tokenizer, callbacks=guards, routes=ROUTES,
    optimizers=(optimizer, None), positive_only=POSITIVE_ONLY, results=run.results, panels=PANELS,
    label_rollouts=lambda prompts, texts, _, rows: judge(prompts, texts, [row["label"] for row in rows])[1],
)  # fmt: skip
stopped = train_to_end(trainer, run, start="start")
plot_steps(run.results / "train.jsonl", PANELS, run.plot("training"), run.name)

# %% Evaluation: the whole where that is more than what is kept, what is kept, and the start from before
modes = {mode: MODES[mode] for mode in (["full", "bad_ablated"] if ROUTES is ROUTED else ["bad_ablated"])}
measured |= measure_rollouts(model.eval(), tokenizer, held_out, modes, *evaluation)
results = rollout_results(measured, held_out) | {"stopped": stopped, "seconds": totals()}
print(f"\n{run.name}\n{format_table(results['modes'], COLUMNS)}\n{format_totals()}")
write_results(run, results)
