"""Load a causal language model and put adapters into it."""

import functools
import importlib.util
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from dotenv import find_dotenv, load_dotenv
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available
from transformers.utils import logging as transformers_logging

from adapters import TrainedLayer, apply_dual_lora, apply_mlp_adapter, coverage, train_last_layers
from adapters.dual_adapter import RoutedModule
from lab.errors import BadInput
from routing.assets import model_path
from routing.distributed import from_main, start


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode in the block, without dropout and the random numbers that it draws; then as it was before."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def default_device() -> torch.device:
    """CUDA (with several processes each its own), else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """The frozen base's dtype: bf16 where the device computes it natively and faster, else fp32.

    Adapter weights are always fp32.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        native = from_main(_bf16_pays_here)
    else:
        native = False
    return torch.bfloat16 if native else torch.float32


@functools.cache
def _bf16_pays_here() -> bool:
    """Whether this CPU multiplies bf16 matrices clearly faster than fp32 ones: measured, in about 20 ms.

    What it says of itself does not tell. Of two with AVX512-BF16 one was four times as fast in bf16 (AMD
    EPYC), the other half as fast (Intel Xeon without AMX).
    """
    capabilities = torch.cpu.get_capabilities()
    if not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
        return False

    def seconds(dtype: torch.dtype) -> float:
        x, weight = torch.ones(256, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
        times = []
        for _ in range(8):
            start = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            times.append(time.perf_counter() - start)
        return min(times)

    # well apart, so that noise does not decide: a run that is resumed must come to the same
    return 1.5 * seconds(torch.bfloat16) < seconds(torch.float32)


def base_dtype(name: str, device: torch.device) -> dict[str, Any]:
    """The arguments of `from_pretrained` for DTYPE=`name`.

    Raises BadInput for another name, or where 4bit cannot run.
    """
    if name == "4bit":
        if device.type != "cuda" or importlib.util.find_spec("bitsandbytes") is None:
            raise BadInput(
                'DTYPE="4bit" needs CUDA and bitsandbytes (`uv pip install bitsandbytes`); give "auto"'
            )
        quantized = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=default_dtype(device)
        )
        return {"dtype": default_dtype(device), "quantization_config": quantized, "device_map": {"": device}}
    known = {"auto": default_dtype(device), "float32": torch.float32, "bfloat16": torch.bfloat16}
    known["float16"] = torch.float16
    if name not in known:
        raise BadInput(f'DTYPE={name!r}: give one of {", ".join(map(repr, known))} or "4bit"')
    return {"dtype": known[name]}


def load_model(
    name: str,
    dtype: str = "auto",
    attention: str = "sdpa",
    gradient_checkpointing: bool = False,
    device: torch.device | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in eval mode, and its tokenizer with a pad token. Raises BadInput if either cannot be loaded.

    `dtype` is that of the frozen base: "auto" (see `default_dtype`), "float32", "bfloat16", "float16", or
    "4bit" (NF4 of bitsandbytes, on CUDA). `attention` is transformers' attn_implementation. Under torchrun
    this is where the processes meet (`routing.distributed`)."""
    start()
    load_dotenv(find_dotenv(usecwd=True))  # HF_TOKEN
    device = device or default_device()
    options = base_dtype(dtype, device)
    check_attention(attention)
    transformers_logging.disable_progress_bar()
    path = model_path(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, attn_implementation=attention, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise BadInput(
            f"MODEL_NAME={name!r} could not be loaded ({str(error).strip().splitlines()[0]}); give "
            "'embedded:SmolLM2-135M-Instruct', a local folder, "
            "or a Hub id (with HF_TOKEN in .env if it is gated)"
        ) from error
    finally:
        transformers_logging.enable_progress_bar()
    if tokenizer.eos_token_id is None:
        raise BadInput(
            f"MODEL_NAME={name!r}: its tokenizer has no end-of-text token, which training and sampling need"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # the frozen embeddings' output needs a gradient,
        # or the first checkpointed layer would have none to pass on
        model.enable_input_require_grads()
    return (model if dtype == "4bit" else model.to(device)).eval(), tokenizer


def check_attention(attention: str) -> None:
    """Raise BadInput for a way to compute attention that transformers does not know or cannot use here."""
    known = ("sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3")
    if attention not in known:
        raise BadInput(f"ATTENTION={attention!r}: give one of {', '.join(known)}")
    available = {
        "flash_attention_2": is_flash_attn_2_available,
        "flash_attention_3": is_flash_attn_3_available,
    }
    if attention in available and not available[attention]():
        raise BadInput(f'ATTENTION={attention!r} needs CUDA and the package flash-attn; give "sdpa"')


def attach_adapters(
    model: nn.Module,
    adapter_type: str,
    lora: dict[str, Any],
    mlp: dict[str, Any],
    layers: float = 0.5,
    trained_layers: int = 0,
) -> None:
    """Freeze `model`, attach the adapters of `adapter_type`, "lora" or "mlp", and print what they cover.

    `lora` and `mlp` are the arguments of `apply_dual_lora` and `apply_mlp_adapter`; `layers` is the share of
    the last layers that get adapters. With `trained_layers`, so many of the last layers' own weights learn in
    the good slot. Raises BadInput for anything that cannot be attached."""
    if adapter_type not in ("lora", "mlp"):
        raise BadInput(f'ADAPTER_TYPE={adapter_type!r}: "lora" or "mlp"')
    try:
        if adapter_type == "lora":
            apply_dual_lora(model, **lora, layers=layers)
        else:
            apply_mlp_adapter(model, **mlp, layers=layers)
        if trained_layers:
            train_last_layers(model, trained_layers)
    except ValueError as error:
        raise BadInput(str(error)) from error
    print(coverage(model))


def remove_adapters(model: nn.Module) -> None:
    """Put the wrapped modules back, in place.

    The model computes what it did before, and can be given other adapters.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            while isinstance(child, RoutedModule):
                child = child.layer if isinstance(child, TrainedLayer) else child.base
                setattr(parent, name, child)


def device_name(device: torch.device | None = None) -> str:
    """What the model runs on, as far as it may change a result: "cpu", or "cuda" with the name of the GPU."""
    device = device or default_device()
    return f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
