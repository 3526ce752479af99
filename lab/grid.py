"""A grid of methods, labels and seeds: its cells run as processes, what they measured is kept in one file.

A cell is one run of a script. Its values stand prompt by prompt in a JSONL file, a line a cell, so that every
interval and every paired difference can be computed again, and a grid goes on where it stopped.
"""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.files import fingerprint, write_text
from lab.sweeps import Job, merge_constants, run_jobs


@dataclass(frozen=True)
class Cell:
    """One run: a method, the share of the behaviour that is labelled, adapter type and seed."""

    method: str
    labeled: float
    adapter_type: str
    seed: int
    job: Job

    @property
    def key(self) -> str:
        """What the cell is stored under: its constants, whatever they are called by."""
        return fingerprint([self.job.script.name, *sorted(self.job.constants)])


Methods = Mapping[str, Callable[[float], Sequence[str]]]
Blocks = Sequence[tuple[Sequence[str], Sequence[float]]]


def make_cells(
    script: Path,
    label_constant: str,
    methods: Methods,
    preset: tuple[Sequence[str], Sequence[int], Blocks],
    common: Sequence[str],
) -> list[Cell]:
    """The cells of a preset, (adapter types, seeds, [(methods, shares labelled), ...]).

    `methods`: name -> share -> NAME=value constants of `script`, which come after the `common` ones. Runs are
    called evidence_<method>_<share>_<adapter type>_seed<seed>. Seeds of one comparison stand together.
    """
    kinds, seeds, blocks = preset
    cells = []
    for names, shares in blocks:
        for share, kind, seed, name in itertools.product(shares, kinds, seeds, names):
            own = [f"{label_constant}={share}", f"ADAPTER_TYPE={kind}", f"SEED={seed}"]
            constants = merge_constants(own, common, methods[name](share))
            job = Job(f"evidence_{name}_{100 * share:g}_{kind}_seed{seed}", script, constants)
            cells.append(Cell(name, share, kind, seed, job))
    return cells


class Store:
    """The records of cells in a JSONL file, {"key", "method", "labeled", ..., "values", "units"} a line.

    "values": mode -> measure -> a value for each prompt. "units": measure -> the unit of each prompt.
    """

    def __init__(self, path: Path):
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.records: dict[str, dict[str, Any]] = {record["key"]: record for record in map(json.loads, lines)}

    def put(self, cell: Cell) -> None:
        """Store what the cell's run left in its eval.json, and write the file."""
        result = cell.job.script.parent / "results" / cell.job.run / "eval.json"
        made = json.loads(result.read_text(encoding="utf-8"))
        self.records[cell.key] = {
            "key": cell.key,
            "method": cell.method,
            "labeled": cell.labeled,
            "adapter_type": cell.adapter_type,
            "seed": cell.seed,
            "constants": list(cell.job.constants),
            "values": made["values"],
            "units": made["units"],
        }
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in self.records.values()))


def run_cells(cells: Sequence[Cell], store: Store, logs: Path, workers: int) -> list[Cell]:
    """Run the cells that the store does not have; returns those that failed."""
    missing = {cell.job: cell for cell in cells if cell.key not in store.records}
    if len(missing) < len(cells):
        print(f"{len(cells) - len(missing)} of {len(cells)} cells are in {store.path.name} already")
    failed = run_jobs(list(missing), logs, workers, lambda job: store.put(missing[job]))
    return [missing[job] for job in failed]
