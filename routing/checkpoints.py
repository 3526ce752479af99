"""Adapter-only checkpoints: adapter.safetensors + config.json, written atomically and loaded strictly.

The config carries every constant of the run, versions and the data's fingerprint, so evaluation rebuilds the
model from it and no dimension is typed twice."""

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adapters import attach, describe, routed_modules
from lab.errors import BadInput
from lab.files import atomic_write, fingerprint, write_json
from lab.runs import CONFIG, STARTED, Run, read_config
from routing.batches import Example
from routing.distributed import from_main, is_main, whole_tensor
from routing.models import load_model, remove_adapters

WEIGHTS, TRAINING_STATE = "adapter.safetensors", "training_state.pt"


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """Name -> tensor (on the model's device, not a copy) of every adapter parameter."""
    adapters = set(map(id, routed_modules(model)))
    return {
        f"{name}.{key}": parameter
        for name, module in model.named_modules()
        if id(module) in adapters
        for key, parameter in module.named_parameters(recurse=False)
    }


def base_signature(model: nn.Module) -> str:
    """A short hash that tells base models apart.

    It is of the shape and first values of every frozen parameter, as bf16. As bf16, so that a base loaded in
    fp32 and the same base loaded in bf16 agree.
    """
    digest = hashlib.sha256()
    for parameter in model.parameters():
        if not parameter.requires_grad:
            values = whole_tensor(parameter.detach()).flatten()[:64].bfloat16().float().cpu().numpy()
            digest.update(f"{tuple(parameter.shape)}".encode() + values.tobytes())
    return digest.hexdigest()[:16]


def base_dtype(model: nn.Module) -> str:
    """The dtype of the frozen base, such as "bfloat16"."""
    base = next(parameter for parameter in model.parameters() if not parameter.requires_grad)
    return str(base.dtype).removeprefix("torch.")


def examples_fingerprint(examples: Sequence[Example]) -> str:
    """A short hash of what a run is trained on: tokens, what of them is prompt, and labels, in order."""
    return fingerprint(f"{example.ids} {example.prompt_length} {example.label}" for example in examples)


def save_checkpoint(run: Run, model: nn.Module, examples: Sequence[Example]) -> None:
    """Write a run's checkpoint, which takes the place of what it would be resumed from."""
    write_checkpoint(run.checkpoint, model, run.constants, examples_fingerprint(examples))
    if is_main():
        # in this order: a run that is started and has no state has just begun (`routing.training_state`)
        for file in (STARTED, TRAINING_STATE):
            (run.checkpoint / file).unlink(missing_ok=True)


def write_checkpoint(
    folder: Path,
    model: nn.Module,
    constants: Mapping[str, Any],
    data_fingerprint: str | None,
    /,
    **more: Any,
) -> None:
    """Write the adapters and a config that rebuilds them. Of several processes the first one writes.

    The constant MODEL_NAME names the base, or else `model` among `more`, which goes into the config.
    `data_fingerprint` is None for what was not trained here."""
    # of a sharded base every process has a part
    signature = base_signature(model)
    if not is_main():
        return
    weights = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in adapter_state(model).items()}
    )
    with atomic_write(folder / WEIGHTS) as temporary:
        temporary.write_bytes(weights)
    packages = ("torch", "transformers", "gradient-routing-finetuning")
    config = {
        "model": more.pop("model", None) or constants["MODEL_NAME"],
        "adapter": describe(model),
        "constants": constants,
        "data_fingerprint": data_fingerprint,
        **more,
        "base_signature": signature,
        "base_dtype": base_dtype(model),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }
    # last: a folder with a config that fits its weights is whole
    write_json(folder / CONFIG, config)


def load_adapters(folder: Path, model: nn.Module) -> dict[str, Any]:
    """Load a checkpoint's adapters into a model that has adapters, and return its config.

    Strict: other names or shapes (another adapter type, rank, choice of layers, or base model) raise
    BadInput, before any parameter is changed."""
    config = from_main(lambda: read_config(folder))
    try:
        weights = from_main((folder / WEIGHTS).read_bytes)
    except FileNotFoundError:
        raise BadInput(f"{folder}: {WEIGHTS} is missing; train the run again") from None
    if hashlib.sha256(weights).hexdigest() != config["weights_sha256"]:
        raise BadInput(
            f"{folder}: {WEIGHTS} and {CONFIG} are not of one run, or damaged; "
            "put back what was there, or train the run again"
        )
    what = f"{folder} holds {config['adapter']} for {config['model']}"
    try:
        tensors = load(weights)
    except SafetensorError as error:
        raise BadInput(f"{folder / WEIGHTS}: {error}; train the run again") from None
    copy_strictly(tensors, adapter_state(model), what, config["base_signature"] == base_signature(model))
    return config


def copy_strictly(
    source: dict[str, Tensor], target: dict[str, Tensor], what: str, same_base: bool = True
) -> None:
    """Copy tensors by name.

    Raises BadInput, changing nothing, unless names, shapes and the base model agree.
    """
    have, want = ({name: tuple(t.shape) for name, t in tensors.items()} for tensors in (source, target))
    if have != want:
        name = sorted(set(have.items()) ^ set(want.items()))[0][0]
        raise BadInput(
            f"{what}, which does not fit this model: {name} is {have.get(name, 'missing')} "
            f"in the checkpoint and {want.get(name, 'missing')} in the model; "
            "use the checkpoint's own adapter type, dimensions and base model"
        )
    if not same_base:
        raise BadInput(
            f"{what}, which does not fit this model: its base weights are others; load that base model"
        )
    with torch.no_grad():
        for name, tensor in source.items():
            target[name].copy_(tensor)


def load_checkpoint(
    folder: Path, device: torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """Rebuild a run's model from its checkpoint alone: (model in eval mode, tokenizer, config)."""
    return CheckpointLoader(device).load(folder)


class CheckpointLoader:
    """Loads checkpoints one after another; runs of the same base share it, so that only the adapters change.

    A model it returned is the same object as the next one of its base: use it before loading the next.
    """

    def __init__(self, device: torch.device | None = None):
        self.device = device
        self.base: tuple[str, str, str] | None = None
        self.loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    def load(self, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
        """As `load_checkpoint`."""
        config = read_config(folder)
        if "start" in config:
            advice = "load it with routing.merging.load_run, or make a plain model of it with tools/merge.py"
            raise BadInput(f"{folder}: its adapters stand on a fine-tuned start that was merged; {advice}")
        constants = config["constants"]
        # what is quantized has no dtype that says so
        dtype = "4bit" if constants.get("DTYPE") == "4bit" else config["base_dtype"]
        base = (config["model"], dtype, constants.get("ATTENTION", "sdpa"))
        if self.loaded is None or self.base != base:
            # let go of the old base first: two may not fit
            self.loaded = None
            self.loaded = load_model(*base, device=self.device)
            self.base = base
        model, tokenizer = self.loaded
        remove_adapters(model)
        try:
            attach(model, config["adapter"])
        except (ValueError, KeyError) as error:
            raise BadInput(f"{folder / CONFIG}: {error}; train the run again") from error
        load_adapters(folder, model)
        return model.eval(), tokenizer, config
