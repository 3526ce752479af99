"""Adapters merged into the base's weights, and runs that start from such a base.

Reinforcement learning wants a policy to start from, and to stay close to. Merged, what was fine-tuned before
*is* the base: fresh adapters stand on it, and with both ablated it is the reference of the KL term.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adapters import DualLoRALinear, TrainedLayer, attach, routed_modules
from adapters.dual_adapter import RoutedModule
from lab.errors import BadInput
from lab.runs import Run, read_config
from routing.batches import Example
from routing.checkpoints import load_adapters, load_checkpoint, save_checkpoint
from routing.losses import example_losses
from routing.models import attach_adapters, remove_adapters
from routing.optimizer import RoutedOptimizer
from routing.probes import TrainingLog
from routing.stream import training_stream


@torch.no_grad()
def merge_adapters(model: nn.Module) -> None:
    """Add the adapters, at the scales they are set to, to the base's weights, and take them off. In place.

    W + sum over k of scale_k gain_k B_k A_k. Trained layers get their weights at their scale. Computed in
    fp64 on the CPU and then rounded to the base's dtype, so that every machine comes to the same weights.
    Raises TypeError for MLP adapters, and BadInput for a quantised base; nothing is changed then."""
    check_can_merge(model)
    # the outer ones first: a trained layer sets the weights that LoRAs inside it are added to
    for module in routed_modules(model):
        if isinstance(module, TrainedLayer):
            for name, value in module.weights_at(module.good_scale, torch.float32).items():
                module.layer.get_parameter(name).copy_(value)
            continue
        weight = module.base.weight
        merged = weight.cpu().double()
        scales = (module.good_scale * module.gains[0], module.bad_scale * module.gains[1])
        for pair, scale in zip((module.get_good_params(), module.get_bad_params()), scales, strict=True):
            down, up = (parameter.cpu().double() for parameter in pair)
            change = scale * (up @ down)
            # GPT-2's Conv1D keeps its weight as [in, out]
            merged += change if isinstance(module.base, nn.Linear) else change.T
        weight.copy_(merged)
    remove_adapters(model)


def check_can_merge(model: nn.Module) -> None:
    """Raise TypeError or BadInput if the model's adapters could not be merged."""
    for module in routed_modules(model):
        if isinstance(module, TrainedLayer):
            continue
        if not isinstance(module, DualLoRALinear):
            raise TypeError(f"{type(module).__name__} cannot be merged: no weight of the base could hold it")
        if not module.base.weight.is_floating_point():
            raise BadInput('quantised weights cannot take up an adapter: load the base with DTYPE="bfloat16"')


def merged_start(
    run: Run,
    model: PreTrainedModel,
    examples: Sequence[Example],
    batch_size: int,
    steps: int,
    learning_rate: float,
    lora: dict[str, Any],
    layers: float = 0.5,
) -> None:
    """Fine-tune `model` on `examples` with one LoRA, and merge it into its weights. In place.

    `run` is a part of the run that goes on from here: the LoRA is kept as its checkpoint, and an interrupted
    fine-tuning goes on with RESUME. `lora` are arguments of `apply_dual_lora`: rank, alpha. Seeds torch with
    SEED, before and after, so that what follows does not depend on where the run was resumed."""
    if any(isinstance(module, RoutedModule) for module in model.modules()):
        raise BadInput("this model was given adapters before: load it again, in its cell above")
    seed = run.constants["SEED"]
    torch.manual_seed(seed)
    attach_adapters(model, "lora", lora={**lora, "bad_rank": 0}, mlp={}, layers=layers)
    check_can_merge(model)
    optimizer = RoutedOptimizer(model, learning_rate)
    stream = training_stream(run, model, optimizer, examples, batch_size, steps, warmup_steps=steps // 10)
    log = TrainingLog(run, steps)
    model.train()
    for step, batch in stream:
        losses = example_losses(model, batch)
        losses.mean().backward()
        log.add(batch, losses)
        optimizer.step()
        log.write(step, optimizer, {})
    model.eval()
    save_checkpoint(run, model, examples)
    merge_adapters(model)
    torch.manual_seed(seed)


def load_on_start(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """The model of a run that went on from a merged start: (model in eval mode, tokenizer, config).

    `folder` is the run's checkpoint, whose config names the start's checkpoint, a folder inside, as "start".
    """
    config = read_config(folder)
    if "start" not in config:
        raise BadInput(f"{folder}: this run had no start that was merged; load it with load_checkpoint")
    model, tokenizer, _ = load_checkpoint(folder / config["start"])
    merge_adapters(model)
    attach(model, config["adapter"])
    load_adapters(folder, model)
    return model.eval(), tokenizer, config


def load_run(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """The model of any run's checkpoint, on its merged start if it had one: (model, tokenizer, config)."""
    return load_on_start(folder) if "start" in read_config(folder) else load_checkpoint(folder)
