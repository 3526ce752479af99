"""What a run of GRPO is made with: TRL's arguments, and its prompts in the order of their steps."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset

from lab.errors import BadInput
from lab.runs import Run
from routing.batches import batch_order
from routing.distributed import world_size
from routing.models import default_device


def grpo_config(
    run: Run, prompts_per_step: int, num_generations: int, micro_batch_size: int = 0, **more: Any
) -> Any:
    """The GRPOConfig of a run; `more` are arguments of TRL's, and win.

    A step takes `prompts_per_step` rows, in the order of the data set, samples `num_generations` rollouts of
    each, and learns from each of them once, `micro_batch_size` at a time (0: all; the gradient is the same).
    Every step is logged. SEED and SAVE_EVERY are the run's. Raises BadInput for numbers that do not fit, and
    without TRL."""
    try:
        from trl import GRPOConfig
    except ModuleNotFoundError as error:
        if error.name != "trl":
            raise
        raise BadInput("reinforcement learning needs TRL: `uv sync --group rl`") from None
    if num_generations < 2 or prompts_per_step < 1:
        raise BadInput(
            f"PROMPTS_PER_STEP={prompts_per_step}, NUM_GENERATIONS={num_generations}: give 1 prompt or more, "
            "and 2 rollouts or more of each, since they are compared with one another"
        )
    rollouts, processes = prompts_per_step * num_generations, world_size()
    own = rollouts // processes
    at_a_time = min(micro_batch_size, own) or own
    if rollouts % processes or own % at_a_time:
        raise BadInput(
            f"MICRO_BATCH_SIZE={micro_batch_size}: a step's {rollouts} rollouts (PROMPTS_PER_STEP * "
            f"NUM_GENERATIONS) must be the same number for each process, of which there are {processes}, "
            "and MICRO_BATCH_SIZE a divisor of that"
        )
    settings = {
        "output_dir": str(run.checkpoint),
        "num_generations": num_generations,
        "per_device_train_batch_size": at_a_time,
        "gradient_accumulation_steps": own // at_a_time,
        # the order is the data set's
        "shuffle_dataset": False,
        "lr_scheduler_type": "constant_with_warmup",
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": run.constants["SAVE_EVERY"],
        "seed": run.constants["SEED"],
        "use_cpu": default_device().type == "cpu",
        # no autocast: the base has a dtype of its own, and the adapters are fp32
        "bf16": False,
        "dataloader_pin_memory": False,
        "report_to": [],
        "disable_tqdm": True,
    }
    return GRPOConfig(**(settings | more))


def in_steps(rows: Sequence[dict[str, Any]], prompts_per_step: int, steps: int, seed: int) -> Dataset:
    """The rows of all steps of a run, one step after another: as many epochs as it takes, each shuffled.

    To the Trainer that is a single epoch, in the data set's order, which it can take up again anywhere; its
    own shuffling begins anew when a run is resumed. Prompts of a step are of similar length. Raises BadInput
    if there are no rows."""
    if not rows:
        raise BadInput("no prompts are left for the rollouts: give more training data, or use less before")
    order = batch_order([len(row["prompt"]) for row in rows], prompts_per_step, steps, seed)
    return Dataset.from_list([rows[i] for step in order for i in step])
