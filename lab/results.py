"""The results cache of eval_multi.py: one JSON file, an entry per run, reused only while nothing it depends on has changed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import BadInput
from lab.files import write_json
from lab.runs import CONFIG, read_config

# how an entry is named in a checkpoint's description, by adapter type: (good, bad)
DIMENSIONS = {"lora": ("rank", "bad_rank"), "mlp": ("adapter_dim", "bad_adapter_dim")}


@dataclass
class RunConfig:
    """One checkpoint to evaluate. `eval_modes`: [(good_scale, bad_scale, mode_name), ...]."""

    name: str
    checkpoint_path: str
    adapter_type: str
    good_dim: int
    bad_dim: int
    eval_modes: list[tuple[float, float, str]]
    label: str = ""


def described_dims(config: Mapping[str, Any]) -> tuple[str, int, int]:
    """(adapter type, good dimension, bad dimension) of a checkpoint's config."""
    adapter = config["adapter"]
    return (adapter["type"], *(adapter[key] for key in DIMENSIONS[adapter["type"]]))


def check_run(run: RunConfig, folder: Path) -> None:
    """Raise BadInput, naming both sides, if a RunConfig and its checkpoint's config do not agree."""
    there = described_dims(read_config(folder))
    if there != (run.adapter_type, run.good_dim, run.bad_dim):
        raise BadInput(
            f"RUNS: {run.name!r} says {run.adapter_type} with dimensions {run.good_dim} and {run.bad_dim}, but its checkpoint "
            f"is {there[0]} with {there[1]} and {there[2]}; correct the RunConfig"
        )


def check_names(runs: Sequence[RunConfig]) -> None:
    """Raise BadInput if two runs, or two modes of a run, share a name, or if a mode is called "base" (it is always there)."""
    groups = {"RUNS": [run.name for run in runs]}
    groups |= {
        f"eval_modes of {run.name!r}": [*(name for _, _, name in run.eval_modes), "base"] for run in runs
    }
    for what, names in groups.items():
        if len(set(names)) < len(names):
            raise BadInput(
                f"{what}: each name may stand there once (base adds itself); got {', '.join(names)}"
            )


def has_checkpoint(folder: Path) -> bool:
    return (folder / CONFIG).exists()


def run_config_of(folder: Path, eval_modes: list[tuple[float, float, str]]) -> RunConfig:
    """The RunConfig that a checkpoint's own config describes, named after its folder (without a checkpoint: empty)."""
    dims = described_dims(read_config(folder)) if has_checkpoint(folder) else ("", 0, 0)
    return RunConfig(folder.name, str(folder), *dims, eval_modes)


def cache_key(checkpoint: Path, modes: Any, constants: Mapping[str, Any], data_fingerprint: str) -> str:
    """A hash of all that an entry depends on: the checkpoint's weights, modes, evaluation constants and data."""
    config = read_config(checkpoint)
    parts = [
        config["weights_sha256"],
        config["model"],
        config["base_dtype"],
        modes,
        dict(constants),
        data_fingerprint,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class ResultsCache:
    """Entries {name: {"key": ..., **result}} in a JSON file that is rewritten, atomically, after every change."""

    def __init__(self, path: Path):
        self.path = path
        self.entries: dict[str, dict[str, Any]] = {}
        if path.exists():
            try:
                entries = json.loads(path.read_text(encoding="utf-8"))
                if not all(isinstance(entry, dict) and "key" in entry for entry in entries.values()):
                    raise ValueError("an entry has no key")
                self.entries = entries
            except (ValueError, AttributeError) as error:
                print(f"{path.name}: unreadable ({error}); all runs are evaluated again")

    def get(self, name: str, key: str) -> dict[str, Any] | None:
        """The stored result, or None if there is none for this key; says which it is."""
        entry = self.entries.get(name)
        if entry is None:
            return None
        if entry["key"] != key:
            print(f"{name}: checkpoint, modes, data or evaluation constants have changed; evaluating again")
            return None
        print(f"{name}: reusing the stored result")
        return entry

    def put(self, name: str, key: str, result: Mapping[str, Any]) -> dict[str, Any]:
        """Store a run's result and write the file; returns the entry."""
        self.entries[name] = {"key": key, **result}
        write_json(self.path, self.entries)
        return self.entries[name]
