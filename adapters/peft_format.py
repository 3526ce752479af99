"""PEFT's LoRA files, from and to: what stands in adapter_config.json and in adapter_model.safetensors.

Beside a projection PEFT adds factor * B A x, A [r, d_in], B [d_out, r], however the base keeps its weight.
The factor is alpha / r, or alpha / sqrt(r) with rank-stabilised LoRA (Kalajdzievski 2023, arXiv:2312.03732).
Here it is always multiplied into B, so what is written has alpha = r. An adapter as read is a dict

    module path -> (A [r, d_in], B [d_out, r], its factor in it)
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.bottleneck import SLOTS

PREFIX = "base_model.model."
Branches = dict[str, tuple[Tensor, Tensor]]

# A field of adapter_config.json that is set -> why such an adapter is no plain LoRA on a frozen base.
NOT_PLAIN = {
    "use_dora": "DoRA also rescales the base's weights",
    "bias": "trained biases have no place in two adapters beside a frozen base",
    "lora_bias": "trained biases have no place in two adapters beside a frozen base",
    "modules_to_save": "modules of the base that were trained whole have no place in the adapters",
    "trainable_token_indices": "trained embeddings have no place in the adapters",
    "target_parameters": "it adapts parameters that are no projections (experts, say)",
    "layer_replication": "it repeats layers of the base",
    "alora_invocation_tokens": "activated LoRA leaves the tokens before its invocation alone",
    "revision": "which revision of the base is loaded cannot be chosen here; load it, save it as a folder, "
    "clear this field, and give the folder as MODEL_NAME",
}
# Fields that do not change what is computed, or that `from_peft` accounts for.
UNDERSTOOD = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights",
    "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config",
    "megatron_config", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r",
    "rank_pattern", "target_modules", "task_type", "use_rslora", "velora_config",
}  # fmt: skip
NOT_SET = (None, False, "none", "main", [], {})
# Every other initialisation (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) takes something off the base's weights.
LEAVES_BASE_ALONE = (True, False, "gaussian", "eva", "orthogonal", "mica")


def to_peft(
    state: Mapping[str, Tensor],
    description: Mapping[str, Any],
    which: str,
    base: str,
    conv1d: bool = False,
    pad_rank: int = 0,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(adapter_config.json, adapter_model.safetensors) of the "good" or the "bad" LoRA, or of "both" as one.

    state: name -> tensor of every dual LoRA, such as "model.layers.2.mlp.up_proj.lora_A_good".
    description: as of `describe`. base: the base's name. conv1d: the projections are GPT-2's Conv1D, which
    keep their weight as [in, out]. pad_rank: the rank to write, filled up with zeros; 0 for the adapter's
    own. Raises ValueError if there is no such adapter, or if it does not fit into pad_rank."""
    slots = SLOTS if which == "both" else (which,)
    rank = sum(description[f"{slot}_dim"] for slot in slots)
    if description["type"] != "lora" or not rank:
        raise ValueError(f'there is no LoRA "{which}" here: {dict(description)}')
    if pad_rank and pad_rank < rank:
        raise ValueError(f"a rank of {rank} does not fit into a padded rank of {pad_rank}")
    gains, extra = dict(zip(SLOTS, description["gains"], strict=True)), max(0, pad_rank - rank)
    targets = sorted({name.rpartition(".")[0] for name in state})
    tensors = {}
    for target in targets:
        down = torch.cat([state[f"{target}.lora_A_{slot}"] for slot in slots])
        up = torch.cat([state[f"{target}.lora_B_{slot}"] * gains[slot] for slot in slots], dim=1)
        tensors[f"{PREFIX}{target}.lora_A.weight"] = F.pad(down, (0, 0, 0, extra)).detach().cpu().contiguous()
        tensors[f"{PREFIX}{target}.lora_B.weight"] = F.pad(up, (0, extra)).detach().cpu().contiguous()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank + extra,
        # alpha / r is 1: the factors are in B
        "lora_alpha": rank + extra,
        "lora_dropout": description["dropout"],
        # whole paths: PEFT would take "q_proj" for that of every layer
        "target_modules": targets,
        "fan_in_fan_out": conv1d,
        "bias": "none",
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    return config, tensors


def from_peft(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Branches:
    """The adapter that PEFT's two files hold, in fp32.

    Ranks may differ from module to module. Raises ValueError, saying why, for anything that is not a plain
    LoRA of projections: then its matrices alone would not compute what PEFT does."""
    _check_plain(config)
    downs, ups = {}, {}
    for name, tensor in tensors.items():
        found = re.fullmatch(rf"{re.escape(PREFIX)}(.+)\.lora_([AB])\.weight", name)
        if found is None or tensor.dim() != 2:
            raise ValueError(f"its tensor {name} {list(tensor.shape)} is no matrix of a projection's LoRA")
        (downs if found[2] == "A" else ups)[found[1]] = tensor.detach().float()
    if not downs or set(downs) != set(ups) or any(len(a) != ups[path].shape[1] for path, a in downs.items()):
        raise ValueError("its tensors are no pairs of lora_A [r, in] and lora_B [out, r]")
    branches = {}
    for path, down in downs.items():
        rank = len(down)
        # PEFT's own default is 8
        alpha = _by_pattern(config.get("alpha_pattern"), path, config.get("lora_alpha", 8))
        factor = alpha / (rank**0.5 if config.get("use_rslora") else rank)
        branches[path] = down, ups[path] * factor
    return branches


def to_dual(fresh: Mapping[str, Tensor], adapters: Mapping[str, Branches]) -> dict[str, Tensor]:
    """The state of dual LoRAs, name -> tensor, with `adapters`: slot -> adapter as read.

    fresh: the state of newly attached ones, of gain 1 and of each slot's largest rank. What an adapter does
    not fill stays as it is there: a column of B that is zero, so it adds nothing and can still learn. Raises
    ValueError for a module that `fresh` does not have, or not of that size."""
    state = {name: tensor.detach().clone() for name, tensor in fresh.items()}
    for slot, branches in adapters.items():
        for path, (down, up) in branches.items():
            if f"{path}.lora_A_{slot}" not in state:
                raise ValueError(f"{slot} adapts {path}, where the base has no projection")
            into, out_of = state[f"{path}.lora_A_{slot}"], state[f"{path}.lora_B_{slot}"]
            have, want = (down.shape[1], len(up)), (into.shape[1], len(out_of))
            if have != want:
                raise ValueError(
                    f"{slot} adapts {path} from {have[0]} to {have[1]} values, the base's has {want[0]} and "
                    f"{want[1]}: it was trained on another base"
                )
            into[: len(down)] = down.to(into)
            out_of[:, : len(down)] = up.to(out_of)
    return state


def _check_plain(config: Mapping[str, Any]) -> None:
    """Raise ValueError unless this adapter_config.json is of a plain LoRA on the base as it is."""
    if config.get("peft_type") != "LORA":
        raise ValueError(f"it is of PEFT's type {config.get('peft_type')}; only LORA can become a dual LoRA")
    for field, value in config.items():
        if field not in UNDERSTOOD and value not in NOT_SET:
            reason = NOT_PLAIN.get(field, "what this field does is not known here")
            raise ValueError(f"its adapter_config.json has {field}={value!r}: {reason}")
    start = config.get("init_lora_weights", True)
    if start not in LEAVES_BASE_ALONE:
        raise ValueError(
            f"its adapter_config.json has init_lora_weights={start!r}, which may change the base's weights, "
            "too; save it with PEFT's path_initial_model_for_weight_conversion, as a plain LoRA"
        )


def _by_pattern(patterns: Mapping[str, Any] | None, path: str, default: Any) -> Any:
    """What PEFT's rank_pattern or alpha_pattern says of a module: its first key that fits the path's end."""
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", path):
            return value
    return default
