"""What the benchmarks share: models by shape, a synthetic mixed batch, interleaved timing, peak memory.

Also the record of the machine.
"""

import ctypes
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binom
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, PreTrainedModel, Qwen2Config

from routing.batches import Batch, Example, collate
from routing.models import default_device, default_dtype

# Real shapes with random weights, from the models' published configs:
# speed does not depend on what the weights are.
SHAPES = {
    "tiny": lambda: LlamaConfig(
        vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4
    ),
    "SmolLM2-135M": lambda: LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
    ),
    "Gemma-3-1B": lambda: Gemma3TextConfig(
        vocab_size=262144,
        hidden_size=1152,
        intermediate_size=6912,
        num_hidden_layers=26,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        sliding_window=512,
    ),
    "Qwen2-7B": lambda: Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=32768,
    ),
}


def make_model(shape: str, layers: int | None = None, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A frozen model of a real shape with random weights.

    It lies on the default device, in the dtype that the project uses there.
    """
    config = SHAPES[shape]()
    if layers:
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    torch.manual_seed(0)
    device = default_device()
    with device:
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype or default_dtype(device), attn_implementation="sdpa"
        )
    return model.requires_grad_(False).train()


def mixed_batch(vocabulary: int, size: int, tokens: int, device: torch.device, seed: int = 0) -> Batch:
    """`size` examples of `tokens` tokens: of four, two unlabelled, one "bad", one "good".

    The first quarter of each is prompt.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocabulary, (size, tokens), generator=generator).tolist()
    labels = (None, "bad", None, "good")
    return collate([Example(ids[i], tokens // 4 + 1, labels[i % 4]) for i in range(size)], device)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleave(
    contestants: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of each call: A B C A B C ..., so that a slow spell of the machine hits all alike."""
    for _ in range(warmup):
        for run in contestants.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            synchronize()
            start = time.perf_counter()
            run()
            synchronize()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median(values: list[float]) -> float:
    return statistics.median(values)


def ratio(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """The median of the paired rounds' ratios and its 95% interval.

    The interval lies between two of the ratios (sign test); below 6 rounds these are the extremes.
    """
    ratios = sorted(a / b for a, b in zip(numerator, denominator, strict=True))
    n = len(ratios)
    # of n flips of a coin, at most so many fall on one side in under 2.5% of cases
    outside = max(0, int(binom.ppf(0.025, n, 0.5)) - 1)
    low, high = ratios[outside], ratios[n - 1 - outside]
    return {"median": round(median(ratios), 3), "low": round(low, 3), "high": round(high, 3)}


def peak_memory_mb(run: Callable[[], Any]) -> float | None:
    """What one call needs beyond what was allocated before.

    That is CUDA's allocator peak, or on Linux the growth of the resident set.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not Path("/proc/self/clear_refs").exists():
        return None
    ctypes.CDLL(None).malloc_trim(
        0
    )  # freed memory that the allocator has kept would hide what the call needs
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1])  # kB


def machine() -> dict[str, Any]:
    """The device and the versions that a measurement belongs to."""
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        device = f"{torch.get_num_threads()} threads of {names[0] if names else platform.processor()}"
        device += f", {torch.backends.cpu.get_cpu_capability()}"
    packages = ("torch", "transformers", "peft", "accelerate")
    return {
        "device": device,
        "versions": {
            "python": platform.python_version(),
            **{p: importlib.metadata.version(p) for p in packages},
        },
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


@contextmanager
def report(path: str | None):
    """Yield a dict to fill; write it to `path` as JSON at the end, if one was given."""
    content: dict[str, Any] = machine()
    try:
        yield content
    finally:  # what was measured before a failure counts
        _write(path, content)


def _write(path: str | None, content: dict[str, Any]) -> None:
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def emit(**line: Any) -> None:
    """One JSON line per measurement on stdout."""
    print(json.dumps(line), flush=True)
