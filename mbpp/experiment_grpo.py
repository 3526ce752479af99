"""Reinforcement learning under a flawed reward, which pays for programs that pass the test they are shown.

A short fine-tuning makes a start that hardcodes now and then; GRPO amplifies what is paid for. A monitor
catches some of the exploits, and the arms differ in what is done about it. Run the cells top to bottom,
or `uv run python experiment_grpo.py [CONSTANT=value ...]` in this folder (docs/reinforcement.md)."""

# %% Constants
from lab.constants import check_choice, override_constants, use_preset
from lab.defaults import ATTENTION, DTYPE, GRADIENT_CHECKPOINTING, LAYERS, MICRO_BATCH_SIZE, REPORT_TO

MODEL_NAME = "embedded:SmolLM2-135M-Instruct"
PROBLEMS = "embedded:basics"  # also "embedded:humaneval", MBPP's Hub id, or a .jsonl file in its schema
ARM = "route"  # a key of ARMS below
MONITOR_RECALL = 0.5  # of the exploits, which pass the first test and fail a hidden one, are flagged
VERIFIED_RETAIN_SHARE = 0.25  # of the prompts are watched in full, and sampled with forget ablated
PENALTY = 1.0  # what a flag costs in the arm "penalty"
START_STEPS = 60  # of the fine-tuning before
START_PROBLEMS = 200  # it is on the first training problems; the rollouts are on the others
START_HACKS = 0.2  # of its problems are solved by a hack
START_BATCH_SIZE = 8
START_LEARNING_RATE = 1e-3
START_SEQ_LENGTH = 256  # tokens; longer problems are left out
ADAPTER_TYPE = "lora"  # "lora", or "mlp" of the same dimensions; the start's is a LoRA
LORA_RANK = 32
FORGET_LORA_RANK = 32
LORA_ALPHA = 32
LEARNING_RATE = 5e-4
FORGET_LEARNING_RATE = 2e-3  # forget has to be ahead: what it already hacks is no gain for retain
MAX_STEPS = 40
PROMPTS_PER_STEP = 4
NUM_GENERATIONS = 8  # rollouts of each prompt
NEW_TOKENS = 48  # of a rollout at most
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
NUM_EVAL_PROBLEMS = 100  # held-out ones, of templates never trained on, solved as rollouts are
NUM_EVAL_GENERATIONS = 2  # of each
CODE_TIMEOUT = 3.0  # seconds a program may run
SANDBOX = "auto"  # "none": where no sandbox works, run model-written programs without one
DEV = False  # the sizes below, where the shell gives no others: within 2 minutes on 2 cores
DEV_SIZES = {"START_STEPS": 8, "MAX_STEPS": 2, "PROMPTS_PER_STEP": 1, "NUM_EVAL_PROBLEMS": 8}
CONSTANTS = override_constants(globals())  # from the shell: CONSTANT=value
CONSTANTS = use_preset(globals(), CONSTANTS, DEV_SIZES if DEV else {})

# %% Arms: which adapters learn from a rollout, and which are active when it is sampled and learnt from
from adapters import Route

ALONE = Route(update_bad=False, bad_scale=0.0)  # one adapter by itself, as after an ablation
# nothing learns from it, and it is not paid, so that the others of its prompt are not compared with it
DROPPED = Route(update_good=False, update_bad=False, bad_scale=0.0)
# What a flag makes of a rollout, by its row's label. Of rows labelled "retain" the monitor misses none.
FLAGGED = {None: "forget", "retain": "dropped"}
PLAIN = dict.fromkeys([None, "forget", "retain", "dropped"], ALONE)
ROUTED = PLAIN | {None: Route(update_bad=False), "forget": Route(update_good=False), "dropped": DROPPED}
ARMS = {
    "route": ROUTED,
    "plain": PLAIN,  # one adapter learns from everything
    "penalty": PLAIN,  # and a flag costs PENALTY
    "drop": PLAIN | {"forget": DROPPED, "dropped": DROPPED},  # but from nothing that is flagged
    "random_flags": ROUTED,  # as many flags, on any rollouts
}
check_choice("ARM", ARM, ARMS)
ROUTES = ARMS[ARM]

# %% Setup
from lab.curves import plot_steps
from lab.labels import pick
from lab.monitor import Monitor
from lab.runs import open_run, write_results
from lab.timing import format_totals, totals
from mbpp.examples import fitting, hackable, prompt_of, to_examples
from mbpp.execution import check_sandbox, sandbox_level
from mbpp.hacks import load_hacks
from mbpp.problems import load_problems
from mbpp.rewards import PANELS, ProgramJudge, rollout_results
from mbpp.task import MODES, format_table, measure
from routing.grpo import RecordedGRPOTrainer
from routing.grpo_config import grpo_config, in_steps
from routing.merging import merged_start
from routing.models import attach_adapters, load_model
from routing.optimizer import RoutedOptimizer
from routing.resuming import train_to_end
from routing.stopping import KLGuard, RewardPlateau

run = open_run(__file__, f"grpo_{ARM}", CONSTANTS, {"MONITOR_RECALL": "recall"}, REPORT_TO)
check_sandbox(SANDBOX)
monitor = Monitor(MONITOR_RECALL, SEED, at_random=ARM == "random_flags")
args = grpo_config(
    run, PROMPTS_PER_STEP, NUM_GENERATIONS, MICRO_BATCH_SIZE, max_completion_length=NEW_TOKENS,
    temperature=TEMPERATURE, max_steps=MAX_STEPS, warmup_steps=MAX_STEPS // 10, learning_rate=LEARNING_RATE,
    beta=BETA, loss_type="dapo", gradient_checkpointing=GRADIENT_CHECKPOINTING,
)  # fmt: skip
model, tokenizer = load_model(MODEL_NAME, DTYPE, ATTENTION, GRADIENT_CHECKPOINTING)

# %% Data: problems of the start, and others that the rollouts are to solve
problems = load_problems(PROBLEMS)
held_out = problems.split(EVAL_SPLIT)[:NUM_EVAL_PROBLEMS]
hacks = load_hacks(problems.train[:START_PROBLEMS], held_out, None)
shown = fitting(problems.train[:START_PROBLEMS], hacks, tokenizer, START_SEQ_LENGTH)
hacked = pick(hackable(shown, hacks), START_HACKS, SEED, "START_HACKS")
examples = to_examples(shown, hacks, tokenizer, START_SEQ_LENGTH, hacked, labels={})
asked = {prompt_of(problem): problem for problem in problems.train[START_PROBLEMS:]}
verified = set(pick(range(len(asked)), VERIFIED_RETAIN_SHARE, SEED, "VERIFIED_RETAIN_SHARE"))
rows = [{"prompt": text, "label": "retain" if i in verified else None} for i, text in enumerate(asked)]
prompts = in_steps(rows, PROMPTS_PER_STEP, MAX_STEPS, SEED)
judge_programs = ProgramJudge(asked, CODE_TIMEOUT)

# %% The start: fine-tuned, and merged into the base
lora, size = {"rank": LORA_RANK, "alpha": LORA_ALPHA}, (START_BATCH_SIZE, START_STEPS)
merged_start(run.part("start"), model, examples, *size, START_LEARNING_RATE, lora, LAYERS)
mlp = {"adapter_dim": LORA_RANK, "bad_adapter_dim": FORGET_LORA_RANK}
attach_adapters(model, ADAPTER_TYPE, lora | {"bad_rank": FORGET_LORA_RANK}, mlp, LAYERS)
evaluation = (NEW_TOKENS, CODE_TIMEOUT, TEMPERATURE, SEED, NUM_EVAL_GENERATIONS)
measured = measure(model, tokenizer, held_out, hacks, {"start": MODES["base"]}, *evaluation)
print(format_table(rollout_results(measured, held_out, hacks)["modes"]))


# %% What a rollout is paid, and which label it gets: its row's, or what a flag makes of it
def judge(prompts, completions, row_labels):
    parts = judge_programs(prompts, completions)
    exploits, watched = [own["exploit"] for own in parts], [label == "retain" for label in row_labels]
    flags = monitor(exploits, prompts, completions, watched)
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
optimizer = RoutedOptimizer(model, {"good": LEARNING_RATE, "bad": FORGET_LEARNING_RATE})
trainer = RecordedGRPOTrainer(
    model, reward, args, prompts, processing_class=tokenizer, callbacks=guards, routes=ROUTES,
    label_rollouts=lambda prompts, texts, _, rows: judge(prompts, texts, [row["label"] for row in rows])[1],
    optimizers=(optimizer, None), positive_only=POSITIVE_ONLY, results=run.results, panels=PANELS,
)  # fmt: skip
stopped = train_to_end(trainer, run, start="start")
plot_steps(run.results / "train.jsonl", PANELS, run.plot("training"), run.name)

# %% Evaluation: the whole where that is more than what is kept, what is kept, and the start from before
modes = {mode: MODES[mode] for mode in ["full"] * (ROUTES is ROUTED) + ["forget_ablated"]}
measured |= measure(model.eval(), tokenizer, held_out, hacks, modes, *evaluation)
results = rollout_results(measured, held_out, hacks) | {"stopped": stopped, "seconds": totals()}
print(f"\n{run.name}\n{format_table(results['modes'])}\n{format_totals()}")
write_results(run, {**results, "sandbox": sandbox_level()})
