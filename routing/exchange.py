"""Adapters come from PEFT and go to it; and whether the logits stay the same."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adapters import attach
from adapters.peft_format import Branches, from_peft, to_dual
from adapters.structure import decoder_stack, projections
from lab.errors import BadInput
from lab.files import write_json
from routing.checkpoints import adapter_state, copy_strictly

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# which adapters are kept -> (good scale, bad scale)
SCALES = {"good": (1.0, 0.0), "bad": (0.0, 1.0), "both": (1.0, 1.0)}
# What logits are compared on; both kinds of letters, as all_caps has them.
PROBE = "Once upon a time there was a ship. THE SHIP WAS OLD, and def sail(to): return [to, 12]"


def check_can_leave(folder: Path, config: Mapping[str, Any], merging: bool = False) -> None:
    """Raise BadInput, saying why, if these adapters cannot become PEFT's files, or cannot be merged."""
    adapter = config["adapter"]
    if adapter["type"] == "mlp":
        raise BadInput(
            f"{folder}: MLP adapters cannot be merged or exported. Each has a ReLU between its two matrices "
            "and stands behind a whole MLP, so no weight of the base could hold it, and PEFT has no such "
            'type; train with ADAPTER_TYPE="lora", or serve the model with this library'
        )
    if merging and config["constants"].get("DTYPE") == "4bit":
        raise BadInput(
            f"{folder}: trained over a base in 4 bits, whose weights cannot take up anything; "
            "export the adapter with tools/export.py"
        )
    if "start" in config and not merging:
        raise BadInput(
            f"{folder}: its adapters stand on a start that was fine-tuned and merged, and no base has those "
            "weights; merge all of it with tools/merge.py"
        )
    if adapter["trained_layers"] and not merging:
        raise BadInput(
            f"{folder}: its last layers were trained whole, which is no LoRA; merge it with tools/merge.py"
        )


@torch.no_grad()
def probe_logits(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """The logits [tokens, vocabulary] of PROBE, in fp32, on the CPU."""
    ids = torch.tensor([tokenizer.encode(PROBE)], device=next(model.parameters()).device)
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].float().cpu()


def difference(ours: Tensor, theirs: Tensor, dtype: torch.dtype, what: str) -> float:
    """The largest difference between logits of two ways to compute the same, over a base of `dtype`.

    Raises BadInput if it is no rounding: in fp32 more than 3e-4 (the root of fp32's precision) of the largest
    logit, in narrower dtypes, where rounding may take a tenth of it, more than a quarter."""
    largest, size = float((ours - theirs).abs().max()), float(ours.abs().max())
    allowed = size * (torch.finfo(dtype).eps ** 0.5 if dtype == torch.float32 else 0.25)
    # not (a <= b): that also catches nan
    if not largest <= allowed or math.isinf(largest):
        raise BadInput(
            f"{what} computes other logits: {largest:.2g} apart, of up to {size:.2g}. "
            "Nothing was written; please report this with the model's name"
        )
    return largest


def write_peft(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """PEFT's two files."""
    write_json(folder / ADAPTER_CONFIG, config)
    save_file(dict(tensors), folder / ADAPTER_WEIGHTS, {"format": "pt"})


def read_peft(what: str, folder: Path) -> tuple[dict[str, Any], Branches]:
    """(adapter_config.json, the adapter) of a folder of PEFT's.

    Raises BadInput, beginning with `what`, if it is none of a plain LoRA."""
    for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / file).is_file():
            raise BadInput(f"{what}: no {file} there; give a folder that PEFT's save_pretrained wrote")
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        return config, from_peft(config, load_file(folder / ADAPTER_WEIGHTS))
    except (ValueError, SafetensorError) as error:
        raise BadInput(f"{what}: {error}") from error


def common_base(configs: Mapping[str, Mapping[str, Any]]) -> str:
    """The base that all these adapter_config.json name. Raises BadInput if they do not."""
    names = {what: config.get("base_model_name_or_path") for what, config in configs.items()}
    if len(set(names.values())) > 1 or None in names.values():
        named = "; ".join(f"{what} names {name!r}" for what, name in names.items())
        raise BadInput(
            f"these adapters do not name one base ({named}). If they are of one all the same, say which: "
            "MODEL_NAME=..."
        )
    return next(iter(names.values()))


def attach_branches(model: nn.Module, adapters: Mapping[str, Branches]) -> None:
    """Freeze `model` and give it dual LoRAs that hold `adapters`: slot -> adapter as `from_peft` reads it.

    All projections of the layers that one of them adapts get both; where an adapter has none, its B is zero.
    Raises BadInput if an adapter stands elsewhere in the model, or does not fit it."""
    paths = {id(module): path for path, module in model.named_modules()}
    places = {
        paths[id(projection)]: index
        for index, layer in enumerate(decoder_stack(model))
        for _, _, projection in projections(layer)
    }
    used = {path: slot for slot, branches in adapters.items() for path in branches}
    for path, slot in used.items():
        if path not in paths.values():
            raise BadInput(f"{slot} adapts {path}, which the base does not have: it was trained on another")
        if path not in places:
            raise BadInput(
                f"{slot} adapts {path}, which is no projection of a decoder layer: only there can both stand"
            )
    description = {"type": "lora", "gains": [1.0, 1.0], "dropout": 0.0, "trained_layers": 0}
    for slot, branches in adapters.items():
        description[f"{slot}_dim"] = max(len(down) for down, _ in branches.values())
    description["layers"] = sorted({places[path] for path in used})
    try:
        attach(model, description)
        copy_strictly(to_dual(adapter_state(model), adapters), adapter_state(model), "these adapters")
    except ValueError as error:
        raise BadInput(str(error)) from error


def peft_logits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Tensor:
    """`probe_logits` of PEFT with the adapter in `folder`. `model` is without adapters, before and after."""
    with_adapter = PeftModel.from_pretrained(model, str(folder)).eval()
    logits = probe_logits(with_adapter, tokenizer)
    with_adapter.unload()
    return logits
