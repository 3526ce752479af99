"""Routes for TRL's trainers: `routing.trainer` with supervised fine-tuning and GRPO.

TRL is in the dependency group `rl`. Without it RoutedTrainer is here, and the other two say what is missing
when they are made."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from adapters import Route, ablated, routed
from lab.errors import BadInput
from routing.trainer import (
    LABEL,
    ONE_ROW_EACH,
    ROUTE,
    Label,
    RoutedTrainer,
    RoutesMixin,
    label_of,
    route_numbers,
)

try:
    from trl import GRPOTrainer, SFTTrainer
except ModuleNotFoundError as error:
    if error.name != "trl":
        raise

    class NeedsTRL(Trainer):
        def __init__(self, *args, **kwargs):
            raise ImportError("this trainer needs TRL: `uv sync --group rl` (or `uv run --group rl ...`)")

    GRPOTrainer = SFTTrainer = NeedsTRL

__all__ = ["RoutedGRPOTrainer", "RoutedSFTTrainer", "RoutedTrainer"]

LabelRollouts = Callable[[list, list, Tensor, list[dict[str, Any]]], Sequence[Label]]


class RoutedSFTTrainer(RoutedTrainer, SFTTrainer):
    """TRL's SFTTrainer with routes and the loss of RoutedTrainer; its metrics are as in TRL.

    A mixture of experts' auxiliary loss, which is no example's own, is logged but left out of the loss."""

    def __init__(self, model: nn.Module, args: Any = None, *rest, **kwargs):
        # now: TRL would drop the labels while it packs
        if any(getattr(args, option, None) for option in ("packing", "eval_packing", "padding_free")):
            raise BadInput(ONE_ROW_EACH)
        super().__init__(model, args, *rest, **kwargs)

    def unsupported(self) -> Iterator[tuple[bool, str]]:
        yield from super().unsupported()
        yield self.args.loss_type != "nll", f'loss_type={self.args.loss_type!r}: only "nll" is supported'

    def example_losses(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool
    ) -> tuple[Tensor, Any]:
        passes = []

        def watched(**kwargs):
            passes.append(model(**kwargs))
            return passes[-1]

        # for its metrics, and the one pass that computes token losses without the whole logits
        found = SFTTrainer.compute_loss(self, watched, inputs, return_outputs)
        fused = passes[0]  # log_probs, label_mask: [batch, tokens - 1]
        losses = -fused.log_probs.sum(1) / fused.label_mask.sum(1).clamp(min=1)
        return losses, found[1] if return_outputs else None

    def _reject_skip_prepare_without_labels(self, datasets: dict, data_collator: Any) -> None:
        # it looks at the collator's class
        collator = getattr(data_collator, "collator", data_collator)
        super()._reject_skip_prepare_without_labels(datasets, collator)


class Within:
    """A model that runs in a context of its own: `context(rows)` for a batch with so many rows."""

    def __init__(self, model: nn.Module, context: Callable[[int], AbstractContextManager]):
        self.model, self.context = model, context

    def __call__(self, **inputs):
        with self.context(len(inputs["input_ids"])):
            return self.model(**inputs)


def scales(route: Route) -> tuple[float, float]:
    """How strongly the route lets good and bad contribute."""
    return float(route.good_scale), float(route.bad_scale)


class RoutedGRPOTrainer(RoutesMixin, GRPOTrainer):
    """TRL's GRPOTrainer with a route for each rollout.

    A rollout has its row's label, unless `label_rollouts(prompts, completions, rewards, rows)` gives it
    another. That is called when the rewards are known, with the rollouts of this process, their rewards
    [rollouts, reward functions] and their rows of the data set. It returns a label for each, None to leave it
    as it is. With it the column `label` may be missing.

    A rollout must be sampled by the policy that is trained on it. So the scales of the *row's* label are in
    force when it is sampled and scored, and a label that `label_rollouts` gives may differ from the row's in
    what it updates, not in its scales: BadInput says so.

    TRL's losses are sums of the rollouts' own terms l_i over a normaliser that no adapter changes; for DAPO,
    the default, that is the number of completion tokens of the step. So adapter k gets
    sum_i u_ik dl_i/dtheta_k, with rollout i run at its own scales: what a loop over single rollouts,
    normalised alike, adds up to. Only for loss_type="grpo" is that (1/B) times a sum over rollouts.
    Advantages compare the rollouts of a prompt whatever their labels, and top_entropy_quantile compares the
    tokens of a batch.

    The KL term's reference (beta > 0) is the same model with the adapters `reference_without` ablated:
    "good", "bad" or "both". No second copy is loaded."""

    def __init__(
        self,
        model: nn.Module,
        reward_funcs: Any,
        args: Any,
        *rest,
        routes: Mapping[Label, Route],
        label_rollouts: LabelRollouts | None = None,
        reference_without: str = "both",
        **kwargs,
    ):
        self.label_rollouts = label_rollouts
        # of the rows whose rollouts are being made: each one's label and the route it is sampled under
        self._labels: list[Label] = []
        self._sampled: list[Route] = []
        # where TRL sees a beta it loads the model once more
        without_reference = copy.copy(args)
        without_reference.beta = 0.0
        super().__init__(model, reward_funcs, without_reference, *rest, routes=routes, **kwargs)
        self.beta = self.args.beta = args.beta
        with ablated(self.model, reference_without):
            pass  # raises for a name that is none
        if self.beta:
            self.ref_model = Within(self.model, lambda rows: ablated(self.model, reference_without))

    def unsupported(self) -> Iterator[tuple[bool, str]]:
        yield from super().unsupported()
        args = self.args
        yield (
            args.use_vllm or args.use_transformers_continuous_batching,
            "these adapters are in the model itself: "
            "leave use_vllm and use_transformers_continuous_batching off",
        )
        yield args.sync_ref_model, "the reference is the model itself, ablated: leave sync_ref_model off"
        yield (
            self.rescales and bool(self.tools or self.rollout_func),
            "with tools or a rollout_func it is not known which rows are generated together, "
            "so no route may change scales",
        )

    @property
    def rescales(self) -> bool:
        """Whether some route changes scales."""
        return any(scales(route) != (1.0, 1.0) for route in self.routes.values())

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        optional = self.label_rollouts is not None
        self._labels = [row.get(LABEL) if optional else label_of(row) for row in inputs]
        known = list(self.routes.values())
        self._sampled = [known[number] for number in route_numbers(self._labels, self.routes).tolist()]
        output = super()._generate_and_score_completions(inputs)
        # TRL shuffles and splits it with the rollouts
        output[ROUTE] = route_numbers(self._labels, self.routes).to(output["advantages"].device)
        return output

    def _generate_single_turn(self, *args, **kwargs):
        with routed(self.model, self._sampled) if self.rescales else nullcontext():
            return super()._generate_single_turn(*args, **kwargs)

    def _get_per_token_logps_and_entropies(
        self, model: nn.Module, *args, batch_size: int | None = None, **kwargs
    ):
        if batch_size is not None and model is self.model:
            # Rollouts are scored before they are trained on, so many at a time.
            rest = iter(self._sampled)
            model = Within(self.model, lambda rows: routed(self.model, list(islice(rest, rows))))
        return super()._get_per_token_logps_and_entropies(model, *args, batch_size=batch_size, **kwargs)

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: list, completions: list, *args
    ) -> Tensor:
        rewards = super()._calculate_rewards(inputs, prompts, completions, *args)
        if self.label_rollouts is not None:
            # all processes' are gathered there
            own = rewards[self.accelerator.process_index * len(prompts) :][: len(prompts)]
            given = list(self.label_rollouts(prompts, completions, own, inputs))
            if len(given) != len(prompts):
                raise BadInput(f"label_rollouts returned {len(given)} labels for {len(prompts)} rollouts")
            self._labels = [
                new if new is not None else old for new, old in zip(given, self._labels, strict=True)
            ]
            self._check_scales()
        return rewards

    def _check_scales(self) -> None:
        route_numbers(self._labels, self.routes)
        for label, sampled in zip(self._labels, self._sampled, strict=True):
            if scales(self.routes[label]) != scales(sampled):
                raise BadInput(
                    f"label_rollouts gave {label!r} to a rollout that was sampled at the scales "
                    f"{scales(sampled)} of good and bad, but that route's are {scales(self.routes[label])}, "
                    "so the rollout would be off-policy: a label that is decided after sampling may only "
                    "change what is updated; labels that change scales belong in the data set's column"
                )

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        with self.in_force(inputs):
            return super()._compute_loss(model, inputs)
