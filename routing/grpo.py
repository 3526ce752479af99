"""GRPO as this project's scripts run it: `routing.trl`, and what TRL has not.

That is positive-only advantages, a record of every rollout, the parts of the reward in the log, and timing.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from lab.live import LivePlot, Panels
from lab.logs import JsonLines
from lab.timing import timed
from routing.distributed import gathered, is_main
from routing.trainer import LABEL
from routing.trl import RoutedGRPOTrainer

# TRL warns of every rollout without a reward; the log counts them
logging.getLogger("trl.trainer.grpo_trainer").addFilter(
    lambda record: "reward functions returned None" not in record.getMessage()
)


def positive_only(advantages: Tensor, rewards: Tensor, num_generations: int) -> Tensor:
    """`advantages` [rollouts], and 0 for every rollout whose reward is not above the mean of its group.

    Every `num_generations` rollouts in a row are a group. `rewards` [rollouts] are what the advantages were
    made of, nan where a rollout has none: it does not count in the mean, and has no advantage. They decide,
    not the advantages. The fp32 mean of equal rewards may be a rounding off, and is divided by a deviation
    that is as small. In fp64 the mean of equal fp32 numbers is that number."""
    groups = rewards.double().view(-1, num_generations)
    above = groups > groups.nanmean(1, keepdim=True)
    return torch.where(above.flatten(), advantages, 0).clamp(min=0)


def rollout_means(rollouts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """For the log: of every number that these rollouts have its mean; None is left out.

    "rollouts/<name>" is over all, "rollouts/<name>/<label>" over those whose row has that label ("unlabelled"
    without one), which tells how they were sampled. "rollouts/missing" counts those without a reward, and
    "labels/<label>" is the share that has that label in the end."""
    found: dict[str, list[float]] = {}
    for rollout in rollouts:
        given = {name: value for name, value in rollout.items() if isinstance(value, int | float)}
        for name, value in given.items():
            for key in (f"rollouts/{name}", f"rollouts/{name}/{rollout['row_label'] or 'unlabelled'}"):
                found.setdefault(key, []).append(float(value))
    means = {key: sum(values) / len(values) for key, values in found.items()}
    labels = [rollout["label"] or "unlabelled" for rollout in rollouts]
    shares = {f"labels/{label}": labels.count(label) / len(labels) for label in sorted(set(labels))}
    missing = float(sum(rollout["reward"] is None for rollout in rollouts))
    return means | shares | {"rollouts/missing": missing}


class StepLog(TrainerCallback):
    """Writes every step's log as a line of JSON, and shows a progress bar, and in a notebook curves."""

    def __init__(self, path: Path, panels: Panels | None):
        self.lines, self.bar = JsonLines(path, tracked=True), None
        self.live = LivePlot(path, path.parent.name, panels) if panels else None

    def on_train_begin(self, args, state, control, **kwargs):
        done, total = state.global_step, state.max_steps
        self.bar = tqdm(total=total, initial=done, desc="grpo", unit="step", disable=not is_main())

    def on_log(self, args, state, control, logs=None, **kwargs):
        # not of an evaluation, nor of the whole training
        if "loss" in logs:
            self.lines.write(state.global_step, logs)
            if logs.get("reward") is not None:
                self.bar.set_postfix(reward=f"{logs['reward']:.3f}", refresh=False)
            self.bar.update(state.global_step - self.bar.n)
            if "stopped" in logs:
                self.bar.write(f"stopped after step {state.global_step}: {logs['stopped']}")
            if self.live:
                self.live.update()

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()
        if self.live:
            self.live.clear()


class MeasuredSteps(TrainerCallback):
    """Every `every` steps and after the last, writes what `measure()` returns as a line of JSON to `path`.

    `measure` may put the model in eval mode, and must leave torch's random state as it is: then a run that is
    measured learns what it would have learnt anyway. Resumed, it goes on behind the lines that are there.
    """

    def __init__(self, measure: Callable[[], Mapping[str, Any]], every: int, path: Path):
        self.measure, self.every, self.lines = measure, every, JsonLines(path)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        step = state.global_step
        if step % self.every == 0 or step == state.max_steps:
            training = model.training
            self.lines.write(step, self.measure())
            model.train(training)


class RecordedGRPOTrainer(RoutedGRPOTrainer):
    """RoutedGRPOTrainer that keeps what it did in the folder `results`, and can reinforce only what is good.

    rollouts.jsonl has a line a rollout of training: step, prompt, completion, reward and its parts, the label
    of its row ("row_label"), its own in the end ("label"), and its advantage. The parts are what reward
    functions pass to TRL's `log_extra(name, values)`. train.jsonl has a line a step: TRL's log, and
    `rollout_means`.

    `panels` are curves to show in a notebook meanwhile, as `lab.curves.plot_steps` draws them.

    `positive_only`: advantages are those of the function of that name. TRL's losses divide by the tokens of
    all rollouts as before, and the KL term (beta > 0) still acts on all: only at beta=0 does a group of equal
    rewards update nothing.

    A plain-text prompt is tokenised as everywhere in this project: BOS, if there is one, and the text.
    Rollouts are sampled in eval mode, without dropout. Seconds are `timed` as "judge", "generation" and
    "step", which includes them."""

    def __init__(
        self,
        model: nn.Module,
        reward_funcs: Any,
        args: Any,
        *rest,
        results: Path,
        positive_only: bool = False,
        panels: Panels | None = None,
        **kwargs,
    ):
        self.positive_only = positive_only
        self._lines = JsonLines(results / "rollouts.jsonl")
        self._rollouts: list[dict[str, Any]] = []
        super().__init__(model, reward_funcs, args, *rest, **kwargs)
        for printer in (PrinterCallback, ProgressCallback):
            self.remove_callback(printer)
        # last, so that it writes what the others have added
        self.add_callback(StepLog(results / "train.jsonl", panels))

    def unsupported(self) -> Iterator[tuple[bool, str]]:
        yield from super().unsupported()
        yield (
            self.positive_only and self.args.multi_objective_aggregation != "sum_then_normalize",
            "positive_only compares the rollouts of a group: "
            'leave multi_objective_aggregation at "sum_then_normalize"',
        )

    def create_model_card(self, *args, **kwargs) -> None:
        """None: what is saved on the way is there to go on from, not to be published."""

    def training_step(self, *args, **kwargs) -> Tensor:
        with timed("step"):
            return super().training_step(*args, **kwargs)

    def _tokenize_prompts(self, prompts: list) -> tuple[list, Any, dict[str, Any]]:
        if not all(isinstance(prompt, str) for prompt in prompts):
            return super()._tokenize_prompts(prompts)
        tokenizer = self._tokenizer
        bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        return [bos + tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts], None, {}

    def _generate_single_turn(self, *args, **kwargs):
        training = self.model.training
        # there the adapters keep their fused weights from one token to the next
        self.model.eval()
        try:
            with timed("generation"):
                return super()._generate_single_turn(*args, **kwargs)
        finally:
            self.model.train(training)

    def _own(self, everyones: Tensor, count: int) -> Tensor:
        """This process's `count` rows of a tensor with those of all."""
        return everyones[self.accelerator.process_index * count :][:count]

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: list, completions: list, *args
    ) -> Tensor:
        with timed("judge"):
            rewards = super()._calculate_rewards(inputs, prompts, completions, *args)
        sums = (rewards * self.reward_weights.to(rewards.device)).nansum(1)
        self._rewards = sums.masked_fill(rewards.isnan().all(1), math.nan)  # [rollouts of all processes]
        parts = self._pending_extra_logs
        self._rollouts = [
            {
                "prompt": prompts[i],
                "completion": completions[i],
                "reward": None if math.isnan(reward) else reward,
                **{name: values[i] for name, values in parts.items()},
                "row_label": row.get(LABEL),
                "label": self._labels[i],
            }
            for i, (row, reward) in enumerate(
                zip(inputs, self._own(self._rewards, len(inputs)).tolist(), strict=True)
            )
        ]
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        training = self.model.training
        if self.positive_only:
            everyones = self.accelerator.gather(output["advantages"])
            group = self.num_generations if training else self.num_generations_eval
            output["advantages"] = self._own(positive_only(everyones, self._rewards, group), len(inputs))
        if training:
            advantages = output["advantages"].tolist()
            self._record(
                {**rollout, "advantage": advantage}
                for rollout, advantage in zip(self._rollouts, advantages, strict=True)
            )
        return output

    def _record(self, rollouts: Iterator[dict[str, Any]]) -> None:
        everyones = gathered(list(rollouts))
        for rollout in everyones:
            # of the step that they are made for, which is not yet over
            self._lines.write(self.state.global_step + 1, rollout)
        for name, value in rollout_means(everyones).items():
            self._metrics["train"][name].append(value)
