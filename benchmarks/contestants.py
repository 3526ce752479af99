"""The contestants of a routed step: one optimizer step on a mixed batch, in several ways.

The batch has unlabelled, bad and good examples.

ours                 this library: one forward, one backward, exact routing
peft_lora            PEFT LoRA of the same total rank, no routing, transformers' own loss: what one would use
                     otherwise
peft_lora_same_loss  the same with our loss, which computes logits where there is a target, chunk by chunk,
                     and keeps none
peft_split           PEFT with two adapters, the batch split by label: how one would route with PEFT
reference_loop       batch of one, two LoRA branches in plain autograd, two optimizers, a step per example:
                     the published way
torch_func           per-example gradients (torch.func), masked afterwards
floor                the frozen model's forward and the backward of activations through the same layers, our
                     loss; no adapters

..._compiled         with each decoder layer compiled by torch.compile
..._checkpointed     with activation checkpointing in each decoder layer

All share the frozen weights, in one dtype. Over a bf16 base PEFT runs under bf16 autocast, as a Trainer with
bf16=True runs it: fp32 adapter weights, bf16 products, like ours. Fused AdamW without weight decay, gradients
clipped at 1, everywhere.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from adapters import Route, apply_dual_lora, bad_params, good_params, routed, routed_modules
from adapters.structure import decoder_stack
from routing.batches import IGNORE, Batch
from routing.losses import example_losses
from routing.optimizer import RoutedOptimizer

ROUTES = {None: Route(), "bad": Route(update_good=False), "good": Route(update_bad=False, bad_scale=0.0)}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LR = 1e-4
Step = Callable[[], None]
Loss = Callable[[nn.Module, Batch], Tensor]
# (frozen model, batch, rank of each adapter, alpha) -> one step
Contestant = Callable[[nn.Module, Batch, int, float], Step]


def last_half(model: nn.Module) -> list[int]:
    layers = model.config.num_hidden_layers
    return list(range(layers // 2, layers))


def ours(model: nn.Module, batch: Batch, rank: int, alpha: float) -> Step:
    apply_dual_lora(model, rank=rank, bad_rank=rank, alpha=alpha)
    optimizer = RoutedOptimizer(model, LR)

    def step() -> None:
        with routed(model, [ROUTES[label] for label in batch.labels]):
            example_losses(model, batch).mean().backward()
        optimizer.step()

    return step


def plain_loss(model: nn.Module, batch: Batch) -> Tensor:
    """transformers' own loss: logits at every position, mean over the batch's tokens."""
    with mixed_precision(model):
        return _plain_loss(model, batch)


def mixed_precision(model: nn.Module) -> torch.autocast:
    """bf16 autocast over a bf16 base, otherwise nothing."""
    base = next(p for p in model.parameters() if not p.requires_grad)
    return torch.autocast(base.device.type, torch.bfloat16, enabled=base.dtype == torch.bfloat16)


def _plain_loss(model: nn.Module, batch: Batch) -> Tensor:
    labels = F.pad(batch.targets, (1, 0), value=IGNORE)[:, :-1]  # transformers shifts them back
    return model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        labels=labels,
        use_cache=False,
    ).loss


def lora_config(model: nn.Module, rank: int, gain: float) -> LoraConfig:
    """PEFT's LoRA of this rank, its contribution multiplied by `gain`.

    `gain` is alpha / rank of our adapters, whatever its own rank.
    """
    return LoraConfig(
        r=rank,
        lora_alpha=gain * rank,
        target_modules=PROJECTIONS,
        layers_to_transform=last_half(model),
        task_type="CAUSAL_LM",
    )


def peft_lora(model: nn.Module, batch: Batch, rank: int, alpha: float, loss: Loss = plain_loss) -> Step:
    wrapped = get_peft_model(model, lora_config(model, 2 * rank, alpha / rank))
    params = [p for p in wrapped.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, LR, weight_decay=0.0, fused=True)

    def step() -> None:
        loss(wrapped, batch).backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def peft_lora_same_loss(model: nn.Module, batch: Batch, rank: int, alpha: float) -> Step:
    def loss(wrapped: nn.Module, batch: Batch) -> Tensor:
        with mixed_precision(wrapped):
            return example_losses(wrapped.get_base_model(), batch).mean()

    return peft_lora(model, batch, rank, alpha, loss)


def peft_split(model: nn.Module, batch: Batch, rank: int, alpha: float) -> Step:
    wrapped = get_peft_model(model, lora_config(model, rank, alpha / rank), adapter_name="good")
    wrapped.add_adapter("bad", lora_config(model, rank, alpha / rank))
    params = {
        slot: [p for n, p in wrapped.named_parameters() if f".{slot}." in n] for slot in ("good", "bad")
    }
    optimizers = {slot: torch.optim.AdamW(params[slot], LR, weight_decay=0.0, fused=True) for slot in params}
    rows = {label: [i for i, other in enumerate(batch.labels) if other == label] for label in ROUTES}
    # label -> (adapters in the forward pass, adapters that learn)
    plans = {
        None: (["good", "bad"], ["good", "bad"]),
        "bad": (["good", "bad"], ["bad"]),
        "good": (["good"], ["good"]),
    }

    def step() -> None:
        for label, (active, learning) in plans.items():
            if not rows[label]:
                continue
            wrapped.base_model.set_adapter(active)
            for slot in params:
                for parameter in params[slot]:
                    parameter.requires_grad_(slot in learning)
            part = batch.select(rows[label])
            (plain_loss(wrapped, part) * (len(rows[label]) / len(batch.labels))).backward()
        for slot in params:
            nn.utils.clip_grad_norm_(params[slot], 1.0)
            optimizers[slot].step()
            optimizers[slot].zero_grad()

    return step


def plain_branches(model: nn.Module) -> None:
    """Replace the adapters' forward by two branches in ordinary autograd."""
    for module in routed_modules(model):

        def forward(x: Tensor, module=module) -> Tensor:
            output = module.base(x)
            scales = (module.good_scale, module.bad_scale)
            for slot, scale, gain in zip(("good", "bad"), scales, module.gains, strict=True):
                if scale:
                    A, B = (p.to(x.dtype) for p in module.slot_params(slot))
                    output = output + scale * gain * F.linear(F.linear(x, A), B)
            return output

        module.forward = forward


def reference_loop(model: nn.Module, batch: Batch, rank: int, alpha: float) -> Step:
    apply_dual_lora(model, rank=rank, bad_rank=rank, alpha=alpha)
    plain_branches(model)
    params = {"good": good_params(model), "bad": bad_params(model)}
    optimizers = {slot: torch.optim.AdamW(params[slot], LR, weight_decay=0.0, fused=True) for slot in params}
    singles = [batch.select([i]) for i in range(len(batch.labels))]

    def step() -> None:
        for single in singles:
            route = ROUTES[single.labels[0]]
            for module in routed_modules(model):
                module.bad_scale = route.bad_scale
            plain_loss(model, single).backward()
            for slot, learns in (("good", route.update_good), ("bad", route.update_bad)):
                if learns:
                    nn.utils.clip_grad_norm_(params[slot], 1.0)
                    optimizers[slot].step()
                optimizers[slot].zero_grad()

    return step


def torch_func(model: nn.Module, batch: Batch, rank: int, alpha: float) -> Step:
    apply_dual_lora(model, rank=rank, bad_rank=rank, alpha=alpha)
    names = {id(p): n for n, p in model.named_parameters()}
    params = {"good": good_params(model), "bad": bad_params(model)}
    optimizers = {slot: torch.optim.AdamW(params[slot], LR, weight_decay=0.0, fused=True) for slot in params}
    routes = [ROUTES[label] for label in batch.labels]
    device = batch.input_ids.device
    updates = torch.tensor([[float(r.update_good), float(r.update_bad)] for r in routes], device=device)
    scales = torch.tensor([[float(r.good_scale), float(r.bad_scale)] for r in routes], device=device)
    for module in routed_modules(model):

        def forward(x: Tensor, module=module) -> Tensor:
            output = module.base(x)
            for k, slot in enumerate(("good", "bad")):
                A, B = (p.to(x.dtype) for p in module.slot_params(slot))
                scale = module.gains[k] * module.scale[k].to(x.dtype)
                output = output + scale * F.linear(F.linear(x, A), B)
            return output

        module.forward = forward

    tokens = batch.input_ids.shape[1]
    # a ready-made mask: transformers' making of one looks at the values, which vmap does not allow
    causal = torch.ones((1, 1, tokens, tokens), dtype=torch.bool, device=device).tril()

    def loss_of(weights: dict, ids: Tensor, positions: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
        for module in routed_modules(model):
            module.scale = scale
        inputs = {"input_ids": ids[None], "position_ids": positions[None], "attention_mask": causal}
        logits = functional_call(model, weights, kwargs={**inputs, "use_cache": False}).logits
        return F.cross_entropy(logits[0].float(), targets, ignore_index=IGNORE)

    per_example = vmap(grad(loss_of), in_dims=(None, 0, 0, 0, 0))

    def step() -> None:
        weights = {names[id(p)]: p for slot in params for p in params[slot]}
        gradients = per_example(weights, batch.input_ids, batch.position_ids, batch.targets, scales)
        for k, slot in enumerate(params):
            for parameter in params[slot]:
                each = gradients[names[id(parameter)]]  # [batch, ...]
                parameter.grad = torch.einsum("i,i...->...", updates[:, k] / len(updates), each)
            nn.utils.clip_grad_norm_(params[slot], 1.0)
            optimizers[slot].step()
            optimizers[slot].zero_grad()

    return step


def floor(model: nn.Module, batch: Batch, rank: int, alpha: float) -> Step:
    first = model.model.layers[last_half(model)[0]]

    def needs_grad(module: nn.Module, args: tuple) -> tuple:
        return (args[0].detach().requires_grad_(), *args[1:])

    first.register_forward_pre_hook(needs_grad)
    return lambda: example_losses(model, batch).mean().backward()


def compiled(contestant: Contestant) -> Contestant:
    def prepare(model: nn.Module, batch: Batch, rank: int, alpha: float) -> Step:
        step = contestant(model, batch, rank, alpha)
        for layer in decoder_stack(model):
            layer.compile()
        return step

    return prepare


def checkpointed(contestant: Contestant) -> Contestant:
    def prepare(model: nn.Module, batch: Batch, rank: int, alpha: float) -> Step:
        step = contestant(model, batch, rank, alpha)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        return step

    return prepare


CONTESTANTS: dict[str, Contestant] = {
    f.__name__: f
    for f in (ours, peft_lora, peft_lora_same_loss, peft_split, reference_loop, torch_func, floor)
}
CONTESTANTS |= {f"{f.__name__}_compiled": compiled(f) for f in (ours, peft_lora, floor)}
CONTESTANTS |= {f"{f.__name__}_checkpointed": checkpointed(f) for f in (ours, peft_lora)}
