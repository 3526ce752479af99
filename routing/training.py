"""The loss, the optimizer that leaves alone what no example updates, and a data stream that checkpoints itself."""

import math
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from adapters import bad_params, good_params, output_cosines
from routing.batches import IGNORE, Batch, Example, batch_order, collate
from routing.checkpoints import TRAINING_STATE, load_training_state, save_training_state
from routing.cross_entropy import FrozenLinearCrossEntropy, frozen_head
from routing.distributed import average_gradients, copy_from_main, gathered, is_main, rank, world_size
from routing.errors import BadInput


def example_losses(model: nn.Module, batch: Batch) -> Tensor:
    """The cross-entropy of each example, averaged over its own target tokens: [batch], fp32 (fp64 for an fp64 model).

    Logits are computed only at positions that have a target, and a few rows at a time where the model allows it (`frozen_head`).
    """
    inputs = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
        "use_cache": False,
    }
    head = frozen_head(model)
    # Where the targets are was found out on the host: a boolean mask would make the device wait to count its ones.
    if head is not None:
        hidden = model.base_model(**inputs).last_hidden_state.flatten(0, 1)  # [batch * tokens, d]
        found = FrozenLinearCrossEntropy.apply(
            hidden.index_select(0, batch.target_index), head.weight, head.bias, batch.target_ids
        )
        token_losses = found.new_zeros(len(hidden)).index_copy(0, batch.target_index, found)
        token_losses = token_losses.view_as(batch.targets)
    else:
        targets = batch.targets.index_select(1, batch.columns)  # where some example has a target
        logits = model(**inputs, logits_to_keep=batch.columns).logits  # [batch, columns, vocabulary]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        token_losses = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none"
        ).view_as(targets)
    return token_losses.sum(1) / (batch.targets != IGNORE).sum(1)


def lm_loss(model: nn.Module, batch: Batch, ortho_lambda: float = 0.0) -> Tensor:
    """The mean over examples of each example's mean token loss; also leaves the examples' losses in `batch.losses`.

    With `ortho_lambda`, plus ortho_lambda times the squared cosine between the two adapters' outputs, averaged over adapter
    modules and over an example's positions, padding excluded. Its parameter gradients are routed like the loss's own.
    """
    with output_cosines(model) if ortho_lambda else nullcontext([]) as cosines:
        losses = example_losses(model, batch)
    batch.losses = losses.detach()
    if ortho_lambda:
        losses = losses + ortho_lambda * mean_over_positions(cosines, batch)
    return losses.mean()


def mean_over_positions(cosines: Sequence[Tensor], batch: Batch) -> Tensor:
    """The mean over modules and over each example's own positions of [batch, tokens] tensors: [batch]; zeros without any."""
    mask = batch.attention_mask
    if not cosines:  # no module has both adapters
        return mask.new_zeros(len(mask), dtype=torch.float32)
    return (torch.stack(list(cosines)).mean(0) * mask).sum(1) / mask.sum(1)


class RoutedOptimizer(torch.optim.AdamW):
    """AdamW over both adapters that does not touch an adapter that no example of the step may update.

    A zero gradient is not enough for that: AdamW would still move the adapter by momentum and weight decay. So an adapter whose
    gradient is exactly zero is skipped, state and all, and stays bitwise unchanged; with batches of one that is the rule
    "one AdamW per adapter, step only the permitted ones" (Cloud et al. 2024, arXiv:2410.04332).

    The gradient norm of each adapter is clipped by itself. The learning rate rises linearly over `warmup_steps` and falls to
    zero along a cosine at `max_steps` (`lr` is one for both, or {"good": ..., "bad": ...}); it follows the global step for both adapters, whether or not they were updated.
    `step()` clears the gradients and leaves `grad_norms` (by adapter, before clipping) and `learning_rate` for the log.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float | Mapping[str, float],
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        max_steps: int | None = None,
        max_grad_norm: float = 1.0,
    ):
        slots = {"good": good_params(model), "bad": bad_params(model)}
        lrs = lr if isinstance(lr, Mapping) else dict.fromkeys(slots, lr)
        groups = [
            {"name": slot, "params": params, "lr": lrs[slot], "base_lr": lrs[slot], "global_step": 0}
            for slot, params in slots.items()
            if any(map(Tensor.numel, params))
        ]
        copy_from_main(parameter for group in groups for parameter in group["params"])
        super().__init__(groups, weight_decay=weight_decay, fused=True)
        self.warmup_steps, self.max_steps, self.max_grad_norm = warmup_steps, max_steps, max_grad_norm
        self.grad_norms: dict[str, float] = {}
        self.learning_rate = 0.0

    def schedule(self, step: int) -> float:
        """The factor on the learning rate at global step `step`, from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.max_steps is None:
            return 1.0
        progress = (step - self.warmup_steps) / max(1, self.max_steps - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    @torch.no_grad()
    def step(self, closure=None):
        average_gradients(parameter for group in self.param_groups for parameter in group["params"])
        for group in self.param_groups:
            total = nn.utils.get_total_norm([p.grad for p in group["params"] if p.grad is not None])
            norm = self.grad_norms[group["name"]] = total.item()
            if not norm <= self.max_grad_norm:  # nan counts; otherwise the gradients are spared a pass
                nn.utils.clip_grads_with_norm_(group["params"], self.max_grad_norm, total)
            if norm == 0:
                for parameter in group["params"]:
                    parameter.grad = None  # AdamW skips it: no momentum, no weight decay, no step count
            group["lr"] = self.learning_rate = group["base_lr"] * self.schedule(group["global_step"])
            group["global_step"] += 1
        loss = super().step(closure)
        self.zero_grad(set_to_none=True)
        return loss


def training_stream(
    model: nn.Module,
    optimizer: RoutedOptimizer,
    examples: Sequence[Example],
    batch_size: int,
    steps: int,
    pad_id: int,
    seed: int,
    folder: Path,
    constants: dict[str, Any],
    resume: bool = False,
    save_every: int = 50,
    first: Sequence[int] = (),
) -> Iterator[tuple[int, Batch]]:
    """Yield (step, batch) for every step of a run, and keep the run resumable.

    Of several processes each gets its rows of the step's batch: the same number on each, so that means over rows average to the
    mean over the whole batch. Order and labels do not depend on the number of processes.

    The code between two items is one training step. Every `save_every` steps, and at the end of the step in which the run is
    interrupted (Ctrl-C, SIGTERM), adapters, optimizer, random state and position go to `folder`; with `resume` the run goes on from
    there, bit for bit as if it had not stopped. A checkpoint of other constants raises BadInput. The examples with the indices
    `first` come before all others.
    """
    if save_every < 1:
        raise BadInput(f"SAVE_EVERY={save_every}: give a number of steps from 1 up")
    if batch_size % world_size():
        raise BadInput(f"BATCH_SIZE={batch_size}: give a multiple of the number of processes, {world_size()}")
    device = next(model.parameters()).device
    order = batch_order([example.bucket_size for example in examples], batch_size, steps, seed, first)
    if resume:
        start = load_training_state(folder, model, optimizer, constants)
    else:
        start = 0
        (folder / TRAINING_STATE).unlink(
            missing_ok=True
        )  # an older run's, which a later resume must not continue
    with (
        deferred_interrupts() as interrupted,
        tqdm(total=steps, initial=start, desc="training", unit="step", disable=not is_main()) as progress,
    ):
        if rank():  # dropout is to differ between processes (so there a resumed run does not repeat what it would have drawn)
            torch.manual_seed(hash((seed, start, rank())))
        for step in range(start, steps):
            rows = order[step][rank() :: world_size()]
            batch = collate([examples[i] for i in rows], pad_id, device)
            yield step, batch
            progress.update()
            if batch.losses is not None:
                progress.set_postfix(loss=f"{batch.losses.mean().item():.3f}")
            stop = any(gathered([bool(interrupted)]))  # a signal may reach the processes in different steps
            if stop or ((step + 1) % save_every == 0 and step + 1 < steps):
                save_training_state(folder, model, optimizer, constants, step + 1)
            if stop:
                raise KeyboardInterrupt(f"after step {step + 1}; RESUME=True goes on from there")


@contextmanager
def deferred_interrupts() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list inside the block instead of dying in the middle of a step. A second one kills."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield received
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number, frame) -> None:
        received.append(number)
        restore()

    for number in before:
        signal.signal(number, handle)
    try:
        yield received
    finally:
        restore()
