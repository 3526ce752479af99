"""The results cache of eval_multi.py: one JSON file, an entry per run.

An entry is reused only while nothing it depends on has changed.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.errors import BadInput
from lab.files import read_object, write_json
from lab.lock import hold
from lab.runs import read_config

# whose releases may change a number
LIBRARIES = ("torch", "transformers", "scipy")


def cache_key(
    checkpoint: Path,
    modes: Any,
    constants: Mapping[str, Any],
    data_fingerprint: str,
    sources: str = "",
    device: str = "",
    sandbox: str = "",
) -> str:
    """A hash of all that an entry depends on.

    That is the checkpoint's weights, modes, evaluation constants, data, code and machine. `data_fingerprint`:
    of prompts, references and hacks. `sources`: `sources_hash` of the task. `device`: see
    `routing.models.device_name`. `sandbox`: the level that judged programs, where any did. Library versions
    add themselves.
    """
    config = read_config(checkpoint)
    parts = {
        "checkpoint": [config[name] for name in ("weights_sha256", "model", "base_dtype")],
        "modes": modes,
        "constants": dict(constants),
        "data": data_fingerprint,
        "sources": sources,
        "machine": [device, sandbox],
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def sources_hash(task: Path) -> str:
    """A hash of the code that a result depends on: the modules in the folder `task`, and the library's.

    Modules are the .py files that are no scripts (have no `# %%` cell). Of the library all count: what a
    change does to a number nobody can tell from its file's name.
    """
    library = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for folder in (task, *(library / package for package in ("adapters", "lab", "routing"))):
        for file in sorted(folder.glob("*.py")):
            text = file.read_text(encoding="utf-8")
            if "\n# %%" not in text:
                digest.update(f"{file.name}\0{text}\0".encode())
    return digest.hexdigest()[:16]


class ResultsCache:
    """Entries {name: {"key": ..., **result}} in a JSON file.

    It is rewritten, atomically, after every change. This process holds it (`lab.lock`): raises BadInput if
    another one does, and if the file is damaged.
    """

    def __init__(self, path: Path):
        hold(path)
        self.path = path
        self.entries: dict[str, dict[str, Any]] = {}
        if path.exists():
            advice = "mend it, or delete it: all runs are then evaluated again"
            self.entries = read_object(path, advice)
            for name, entry in self.entries.items():
                if not (isinstance(entry, dict) and isinstance(entry.get("key"), str)):
                    raise BadInput(f"{path} has no key for {name}; {advice}")

    def get(self, name: str, key: str) -> dict[str, Any] | None:
        """The stored result, or None if there is none for this key; says which it is."""
        entry = self.entries.get(name)
        if entry is None:
            return None
        if entry["key"] != key:
            print(
                f"{name}: checkpoint, modes, data, code, versions or evaluation constants have changed; "
                "evaluating again"
            )
            return None
        print(f"{name}: reusing the stored result")
        return entry

    def put(self, name: str, key: str, result: Mapping[str, Any]) -> dict[str, Any]:
        """Store a run's result and write the file; returns the entry."""
        self.entries[name] = {"key": key, **result}
        write_json(self.path, self.entries)
        return self.entries[name]
