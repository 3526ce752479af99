"""Routes for transformers' Trainer; `routing.trl` has them for TRL's.

    RoutedTrainer(model, args, train_dataset=rows, routes={None: Route(), "bad": Route(update_good=False)})

Every row has a column `label`, a key of `routes`: None where there is none. Collating turns it into `route`,
a tensor with a number for each row, which goes wherever its row goes: through shuffling, gradient
accumulation, several processes (DDP). Checkpoints hold the adapters alone, as `routing.checkpoints` writes
them."""

import copy
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer

from adapters import Route, bad_params, good_params, routed
from lab.errors import BadInput
from routing.batches import IGNORE
from routing.checkpoints import load_adapters, write_checkpoint
from routing.optimizer import RoutedOptimizer

Label = Hashable
LABEL, ROUTE = "label", "route"
ONE_ROW_EACH = (
    "packed and padding-free batches put several examples into one row, and a row has one route: "
    "set packing=False, eval_packing=False and padding_free=False, and give rows that are not packed"
)


def route_numbers(labels: Iterable[Label], routes: Mapping[Label, Route]) -> Tensor:
    """The place in `routes` of each label's route: [labels]. Raises BadInput for a label that has none."""
    places = {label: number for number, label in enumerate(routes)}
    labels = list(labels)
    for label in labels:
        if label not in places:
            raise BadInput(
                f"label {label!r} has no route; `routes` knows {', '.join(map(repr, routes))}: "
                "correct the label, or add a route for it"
            )
    return torch.tensor([places[label] for label in labels])


def label_of(row: Mapping[str, Any]) -> Label:
    """The label of a dataset's row. Raises BadInput if the data set has no such column."""
    if LABEL not in row:
        raise BadInput(
            f"a row has no column {LABEL!r} (only {', '.join(row)}): add it, None where unlabelled"
        )
    return row[LABEL]


@dataclass
class RouteCollator:
    """Another collator's batch, and `route`: the number of each row's route."""

    collator: Callable[[list[dict[str, Any]]], dict[str, Any]]
    routes: Mapping[Label, Route]

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        numbers = route_numbers(map(label_of, rows), self.routes)
        if "seq_lengths" in rows[0]:
            raise BadInput(ONE_ROW_EACH)
        # the rows may be the data set's own
        batch = self.collator([{key: value for key, value in row.items() if key != LABEL} for row in rows])
        if "labels" not in batch:
            raise BadInput("the collator makes no `labels` (token ids, -100 where there is no loss)")
        if len(batch["labels"]) != len(rows):
            raise BadInput(ONE_ROW_EACH)
        return {**batch, ROUTE: numbers}


class RoutesMixin:
    """Gives a Trainer `routes`; put it before the Trainer among a class's bases.

    A subclass enters `self.in_force(inputs)` around the forward pass of its loss. The optimizer is a
    RoutedOptimizer with the arguments' learning rate, betas, epsilon and weight decay: it never moves an
    adapter that no example of the step updates. `max_grad_norm` bounds each adapter's gradient by itself, 0
    not at all. Raises BadInput for what would not be exact, or would be ignored."""

    def __init__(self, *args, routes: Mapping[Label, Route], **kwargs):
        self.routes = dict(routes)
        self._until_backward: ExitStack | None = None
        super().__init__(*args, **kwargs)
        for wrong, message in self.unsupported():
            if wrong:
                raise BadInput(f"{type(self).__name__}: {message}")
        # The Trainer would clip both adapters together. A copy: the caller may use the arguments again.
        self._clip_at = self.args.max_grad_norm or math.inf
        self.args = copy.copy(self.args)
        self.args.max_grad_norm = 0.0
        evaluated = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"eval": self.eval_dataset}
        for dataset in (self.train_dataset, *evaluated.values()):
            # a label that has no route is found now, rather than after hours
            if LABEL in (getattr(dataset, "column_names", None) or ()) and hasattr(dataset, "unique"):
                route_numbers(dataset.unique(LABEL), self.routes)

    def unsupported(self) -> Iterator[tuple[bool, str]]:
        """(Whether it is so, what to do about it) of everything that is refused."""
        args = self.args
        adapters = set(good_params(self.model) + bad_params(self.model))
        others = [n for n, p in self.model.named_parameters() if p.requires_grad and p not in adapters]
        checkpointing = args.gradient_checkpointing_kwargs or {}
        yield (
            not self.routes or not all(isinstance(route, Route) for route in self.routes.values()),
            "give routes={label: Route(...)}",
        )
        yield (
            bool(others),
            f"only the adapters are trained, so freeze the rest ({', '.join(others[:3])}, ...)",
        )
        yield (
            args.n_gpu > 1 or self.is_fsdp_enabled or self.is_deepspeed_enabled,
            "of several devices only DDP is supported (torchrun); not DataParallel, FSDP or DeepSpeed",
        )
        yield args.fp16, "fp16 scales the gradients that each adapter is clipped by; use bf16 or fp32"
        yield (
            bool(args.gradient_checkpointing and checkpointing.get("use_reentrant")),
            "reentrant checkpointing needs inputs with gradients, which a frozen embedding has not; "
            "set use_reentrant=False",
        )
        yield (
            (self.optimizer is not None and not isinstance(self.optimizer, RoutedOptimizer))
            or self.optimizer_cls_and_kwargs is not None
            or args.optim not in ("adamw_torch", "adamw_torch_fused"),
            "another optimizer would move adapters that no example updates; leave the default, or pass "
            "optimizers=(RoutedOptimizer(...), None)",
        )

    @contextmanager
    def in_force(self, inputs: Mapping[str, Any]) -> Iterator[None]:
        """Put the routes of the batch's rows in force, until the step is over; without a step, in the block.

        A step's backward pass runs layers again where activations are checkpointed."""
        known = list(self.routes.values())
        with ExitStack() as block:
            context = routed(self.model, [known[number] for number in inputs[ROUTE].tolist()])
            (self._until_backward or block).enter_context(context)
            yield

    @contextmanager
    def _one_step(self) -> Iterator[None]:
        with ExitStack() as self._until_backward:
            try:
                yield
            finally:
                self._until_backward = None

    def training_step(self, *args, **kwargs) -> Tensor:
        with self._one_step():
            return super().training_step(*args, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            args = self.args
            self.optimizer = RoutedOptimizer(
                self.model, args.learning_rate, args.weight_decay, max_grad_norm=self._clip_at
            )
            for group in self.optimizer.param_groups:
                group.update(betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon)
        return self.optimizer

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        # these are what remove_unused_columns leaves
        self._signature_columns = list(dict.fromkeys([*self._signature_columns, LABEL]))

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # the whole model would be the frozen base once more, under names that from_pretrained does not know
        folder = Path(output_dir or self.args.output_dir)
        constants = {"MODEL_NAME": self.model.config._name_or_path}
        if getattr(self.model, "is_loaded_in_4bit", False):
            # the base is quantised when it is loaded
            constants["DTYPE"] = "4bit"
        write_checkpoint(folder, self.model, constants, None)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_adapters(Path(resume_from_checkpoint), self.model)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)


class RoutedTrainer(RoutesMixin, Trainer):
    """transformers' Trainer with routes, and the loss of `routing.losses`.

    That is the mean over an example's target tokens, then over examples; the Trainer's own loss is a mean
    over all tokens, in which long examples count more. Adapter k gets (1/B) sum_i u_ik dl_i/dtheta_k, where B
    counts the examples with a target in the whole step: all its accumulated batches, on all processes. A
    row's scales are in force in evaluation, too; for what is left after the ablation evaluate within
    `ablated(model, "bad")`."""

    # compute_loss divides by the examples of all accumulated batches
    loss_is_scaled_for_ga = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.data_collator = RouteCollator(self.data_collator, self.routes)

    def unsupported(self) -> Iterator[tuple[bool, str]]:
        yield from super().unsupported()
        yield (
            self.compute_loss_func is not None or self.label_smoother is not None,
            "the loss is the mean over an example's targets, then over examples; leave out compute_loss_func "
            "and label_smoothing_factor, or override compute_loss",
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor | None]:
        """The batches of one step, and how many examples they have on all processes.

        (The Trainer's own would count tokens.)
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        count = sum(has_target(batch["labels"]).sum() for batch in batches).to(device)
        return batches, self.accelerator.gather(count).sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """This batch's share of the step's mean over examples; in evaluation the mean over the batch."""
        plain = {key: value for key, value in inputs.items() if key != ROUTE}
        with self.in_force(inputs):
            losses, outputs = self.example_losses(model, plain, return_outputs)
        if self.model.training and num_items_in_batch is not None:
            # DDP averages the gradients over processes
            losses, count = losses * self.accelerator.num_processes, num_items_in_batch
        else:
            count = has_target(inputs["labels"]).sum()
        loss = losses.sum() / count.clamp(min=1)
        return (loss, outputs) if return_outputs else loss

    def example_losses(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool
    ) -> tuple[Tensor, Any]:
        """Each example's cross-entropy, averaged over its own targets ([batch]), and the model's outputs.

        In fp32 (fp64 for an fp64 model); 0 for an example without a target."""
        targets = inputs.pop("labels")[:, 1:]
        # the model as it was wrapped: DDP and autocast are in its forward
        outputs = model(**inputs)
        logits = outputs.logits[:, :-1]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        losses = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none"
        )
        return losses.view_as(targets).sum(1) / (targets != IGNORE).sum(1).clamp(min=1), outputs


def has_target(labels: Tensor) -> Tensor:
    """Whether each row of [batch, tokens] has a token to predict; the first one has nothing before it."""
    return (labels[:, 1:] != IGNORE).any(1)
