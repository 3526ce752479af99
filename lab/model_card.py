"""The card of a merged model: what it is made of, what was left out of it, and what was measured."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lab.files import read_object
from lab.runs import refuse_other_constants
from lab.tables import MINUS_FULL

# (good scale, bad scale) -> what the tasks call it
MODE_NAMES = {
    (1.0, 1.0): ("full",),
    (1.0, 0.0): ("bad_ablated", "forget_ablated"),
    (0.0, 1.0): ("good_ablated", "retain_ablated"),
}


def results_of(checkpoint: Path, constants: Mapping[str, Any]) -> dict[str, Any] | None:
    """The modes in a run's eval.json, which lies in results/ beside checkpoints/; None if there is none.

    Raises BadInput if it was made with other constants than the checkpoint."""
    checkpoint = checkpoint.resolve()
    for parent in checkpoint.parents:
        if parent.name == "checkpoints":
            file = parent.with_name("results") / checkpoint.relative_to(parent) / "eval.json"
            if file.is_file():
                found = read_object(file, "evaluate again, or delete it", constants=dict, modes=dict)
                refuse_other_constants(file, found["constants"], constants, "Evaluate again, or delete it")
                return found["modes"]
    return None


def model_card(
    name: str,
    config: Mapping[str, Any],
    scales: tuple[float, float],
    modes: Mapping[str, Any] | None,
    written: str,
    licence: str = "",
) -> str:
    """README.md of the run `name`, merged at `scales` (good, bad).

    config: the checkpoint's. modes: as of `results_of`. written: a sentence on dtype and rounding. licence:
    the base's, if it is known."""
    base, constants = config["model"], config["constants"]
    slots = dict(zip(("good", "bad"), scales, strict=True))
    merged = " and ".join(f"the {slot} adapter at scale {scale:g}" for slot, scale in slots.items() if scale)
    ablated = " and ".join(slot for slot, scale in slots.items() if not scale)
    sources = [f"{key} `{value}`" for key, value in constants.items() if _names_a_source(key, value)]
    seen = config["data_fingerprint"]
    header = ["---", "library_name: transformers", "tags: [gradient-routing]"]
    # a Hub id; the Hub refuses anything else there
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).exists():
        header.append(f"base_model: {base}")
    parts = [
        "\n".join([*header, "---"]),
        f"# {name}",
        f"`{base}` with {merged or 'no adapter'} merged into its weights. "
        f"Ablated, and not in here: {ablated or 'neither'}. "
        f"The two stood beside the frozen base, for gradient routing (arXiv:2410.04332). {written}",
        "## Data",
        f"{'; '.join(sources) or 'Named among the constants below.'}. "
        + (f"Examples and labels have the fingerprint `{seen}`." if seen else "The adapters were imported."),
        f"## Measured\n{_metrics(modes, scales)}",
        "## Licence",
        f"These are the weights of `{base}`, changed, and under its licence{licence and f' ({licence})'}. "
        "Look it up there, and that of the data, before you pass them on.",
        f"## Constants of the run\n```json\n{json.dumps(dict(constants), indent=1)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _names_a_source(key: str, value: Any) -> bool:
    """Whether a constant says where data comes from: an embedded asset, a path or a Hub id."""
    if not isinstance(value, str) or key == "MODEL_NAME":
        return False
    return value.startswith("embedded:") or "/" in value or value.endswith((".json", ".jsonl"))


def _metrics(modes: Mapping[str, Any] | None, scales: tuple[float, float]) -> str:
    """The results as a Markdown table, a row each and a column a mode."""
    if not modes:
        return "No results of this run were found."
    known = MODE_NAMES.get(scales, ())
    titles = [f"**{mode}** (this)" if mode in known else mode for mode in modes]
    values = {mode: dict(_leaves(result)) for mode, result in modes.items()}
    rows = dict.fromkeys(path for found in values.values() for path in found)
    lines = [f"| | {' | '.join(titles)} |", "|---" * (1 + len(titles)) + "|"]
    for row in rows:
        lines.append(f"| {row} | {' | '.join(found.get(row, '') for found in values.values())} |")
    none = "" if any(mode in known for mode in modes) else " None of them has this model's scales."
    about = "By the run itself, before merging, with each adapter ablated; 95% intervals in brackets."
    return f"{about}{none}\n\n" + "\n".join(lines)


def _leaves(results: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """(name, text) of every interval or number in a mode's results, but for differences from full."""
    for key, value in results.items():
        name = f"{path} {key}".strip().replace("_", " ")
        if isinstance(value, Mapping) and "mean" in value:
            yield name, f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
        elif isinstance(value, Mapping) and key != MINUS_FULL:
            yield from _leaves(value, name)
        elif isinstance(value, int | float):
            yield name, f"{value:g}"
