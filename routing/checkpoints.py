"""Adapter-only checkpoints: adapter.safetensors + config.json, written atomically and loaded strictly.

The config carries every constant of the run, versions and the data's fingerprint, so evaluation rebuilds the model from it
and no dimension is typed twice.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adapters import routed_modules
from routing.distributed import from_main, is_main, whole_tensor
from routing.errors import BadInput
from routing.models import attach_described, load_model
from routing.notebook import is_bookkeeping

WEIGHTS, CONFIG, TRAINING_STATE = "adapter.safetensors", "config.json", "training_state.pt"


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` at the end of the block, and vanishes if the block fails.

    Of several processes only the first one writes: the others' path is in a folder that goes away, and theirs is left as it was.
    """
    if not is_main():
        with tempfile.TemporaryDirectory() as elsewhere:
            yield Path(elsewhere) / path.name
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # the suffix stays last: writers such as savefig go by it
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    if not is_main():
        return
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


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
    """A short hash that tells base models apart: the shape and first values of every frozen parameter, as bf16.

    As bf16, so that a base loaded in fp32 and the same base loaded in bf16 agree.
    """
    digest = hashlib.sha256()
    for parameter in model.parameters():
        if not parameter.requires_grad:
            values = whole_tensor(parameter.detach()).flatten()[:64].bfloat16().float().cpu().numpy()
            digest.update(f"{tuple(parameter.shape)}".encode() + values.tobytes())
    return digest.hexdigest()[:16]


def save_checkpoint(
    folder: Path, model: nn.Module, adapter: dict[str, Any], constants: dict[str, Any], data_fingerprint: str
) -> None:
    """Write the adapters and a config that rebuilds them: `adapter` is what `attach_adapters` returned."""
    signature = base_signature(model)  # of a sharded base every process has a part
    if not is_main():
        return
    weights = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in adapter_state(model).items()}
    )
    with atomic_write(folder / WEIGHTS) as temporary:
        temporary.write_bytes(weights)
    packages = ("torch", "transformers", "gradient-routing-finetuning")
    config = {
        "model": constants["MODEL_NAME"],
        "adapter": adapter,
        "constants": constants,
        "data_fingerprint": data_fingerprint,
        "base_signature": signature,
        "base_dtype": str(next(p for p in model.parameters() if not p.requires_grad).dtype).removeprefix(
            "torch."
        ),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }
    write_json(folder / CONFIG, config)  # last: a folder with a config that fits its weights is whole
    (folder / TRAINING_STATE).unlink(missing_ok=True)


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's config. Raises BadInput if there is none."""
    try:
        return json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(
            f"{folder}: no checkpoint here (no {CONFIG}); train first, or correct the path"
        ) from None
    except json.JSONDecodeError as error:
        raise BadInput(f"{folder / CONFIG} is not valid JSON ({error}); train the run again") from None


def load_adapters(folder: Path, model: nn.Module) -> dict[str, Any]:
    """Load a checkpoint's adapters into a model that has adapters, and return its config.

    Strict: other names or shapes (another adapter type, rank, choice of layers, or base model) raise BadInput, before any
    parameter is changed.
    """
    config = from_main(lambda: read_config(folder))
    try:
        weights = from_main((folder / WEIGHTS).read_bytes)
    except FileNotFoundError:
        raise BadInput(f"{folder}: {WEIGHTS} is missing; train the run again") from None
    if hashlib.sha256(weights).hexdigest() != config["weights_sha256"]:
        raise BadInput(f"{folder}: {WEIGHTS} and {CONFIG} are not of one run; train the run again")
    what = f"{folder} holds {config['adapter']} for {config['model']}"
    copy_strictly(
        load(weights), adapter_state(model), what, config["base_signature"] == base_signature(model)
    )
    return config


def copy_strictly(
    source: dict[str, Tensor], target: dict[str, Tensor], what: str, same_base: bool = True
) -> None:
    """Copy tensors by name. Raises BadInput, changing nothing, unless names, shapes and the base model agree."""
    have, want = ({name: tuple(t.shape) for name, t in tensors.items()} for tensors in (source, target))
    if have != want:
        name = sorted(set(have.items()) ^ set(want.items()))[0][0]
        raise BadInput(
            f"{what}, which does not fit this model: {name} is {have.get(name, 'missing')} in the checkpoint and "
            f"{want.get(name, 'missing')} in the model; use the checkpoint's own adapter type, dimensions and base model"
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
    config = read_config(folder)
    model, tokenizer = load_model(config["model"], device, getattr(torch, config["base_dtype"]))
    attach_described(model, config["adapter"])
    load_adapters(folder, model)
    return model.eval(), tokenizer, config


def save_training_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, constants: dict[str, Any], step: int
) -> None:
    """Everything needed to go on after `step` steps, in one file, atomically."""
    if not is_main():
        return
    state = {
        "step": step,
        "constants": constants,
        "adapters": adapter_state(model),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }
    with atomic_write(folder / TRAINING_STATE) as temporary:
        torch.save(state, temporary)


def load_training_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, constants: dict[str, Any]
) -> int:
    """Restore the last saved state and return the number of finished steps; 0, with a notice, if nothing was saved.

    A run that finished keeps only its checkpoint: its adapters are loaded and its MAX_STEPS returned. Raises BadInput if the
    run was trained with other constants. Of several processes the first one reads for all: the others may have no such folder.
    """
    finished, saved = folder / CONFIG, folder / TRAINING_STATE
    if from_main(saved.exists):
        state = from_main(lambda: torch.load(saved, map_location="cpu", weights_only=True))
        check_same_constants(folder, state["constants"], constants)
        copy_strictly(state["adapters"], adapter_state(model), f"{saved}")
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda_rng"])
        return state["step"]
    if from_main(finished.exists):
        check_same_constants(folder, from_main(lambda: read_config(folder))["constants"], constants)
        load_adapters(folder, model)
        return constants["MAX_STEPS"]
    print(f"{folder}: nothing to resume; starting at the first step")
    return 0


def check_same_constants(folder: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise BadInput, naming the differences, if a run cannot be continued with the constants `now`."""
    saved = json.loads(json.dumps(saved))  # tuples are lists in JSON
    now = json.loads(json.dumps(now))
    differing = [
        f"{name} was {saved.get(name)!r}, is {now.get(name)!r}"
        for name in sorted(set(saved) | set(now))
        if saved.get(name) != now.get(name) and not is_bookkeeping(name)
    ]
    if differing:
        raise BadInput(f"{folder} cannot be resumed with other constants: {'; '.join(differing)}")
