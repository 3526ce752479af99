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

from lab.files import parse_object, read_object, write_text
from lab.lock import held
from lab.sweeps import Job, constants_as_run, is_procedure, merge_constants, run_jobs


@dataclass(frozen=True)
class Cell:
    """One run: a method, the share of the behaviour that is labelled, adapter type and seed."""

    method: str
    labeled: float
    adapter_type: str
    seed: int
    job: Job


Methods = Mapping[str, Callable[[float], Sequence[str]]]
Blocks = Sequence[tuple[Sequence[str], Sequence[int], Sequence[str], Sequence[float]]]


def make_cells(
    script: Path,
    label_constant: str,
    methods: Methods,
    blocks: Blocks,
    common: Sequence[str],
    prefix: str = "evidence",
) -> list[Cell]:
    """The cells of blocks of (adapter types, seeds, methods, shares labelled), each of which is a grid.

    `methods`: name -> share -> NAME=value constants of `script`, which come after the `common` ones. Runs are
    called <prefix>_<method>_<share>_<adapter type>_seed<seed>. Seeds of one comparison stand together.
    """
    cells = []
    for kinds, seeds, names, shares in blocks:
        for share, kind, seed, name in itertools.product(shares, kinds, seeds, names):
            own = [f"{label_constant}={share}", f"ADAPTER_TYPE={kind}", f"SEED={seed}"]
            constants = merge_constants(own, common, methods[name](share))
            job = Job(f"{prefix}_{name}_{100 * share:g}_{kind}_seed{seed}", script, constants)
            cells.append(Cell(name, share, kind, seed, job))
    return cells


class Store:
    """What cells measured, in a JSONL file: {"constants", "values", "units"} a line.

    "constants": all that the run was made with. "values": mode -> measure -> a value for each prompt.
    "units": measure -> the unit of each prompt. What the code was is not kept.
    Raises BadInput, naming the line, where there is something else.
    """

    def __init__(self, path: Path):
        self.path = path
        self.records: list[dict[str, Any]] = self._read()

    def _read(self) -> list[dict[str, Any]]:
        text = self.path.read_bytes().removesuffix(b"\n") if self.path.exists() else b""
        advice = "mend it, or delete the line: its cell then runs again"
        return [
            parse_object(
                line, f"{self.path}, line {number},", advice, constants=dict, values=dict, units=dict
            )
            for number, line in enumerate(text.split(b"\n") if text else [], start=1)
        ]

    def find(self, cell: Cell) -> dict[str, Any] | None:
        """The record that was made with the cell's constants.

        A constant that the script got since then does not count, unless the cell gives it: it is taken to
        have changed nothing at its default. DTYPE="auto" asks for any: it differs between machines.
        """
        now = _that_count(constants_as_run(cell.job))
        if now.get("DTYPE") == "auto":
            del now["DTYPE"]
        given = {constant.split("=", 1)[0] for constant in cell.job.constants} & now.keys()
        for record in self.records:
            made = record["constants"]
            known = made.keys() & now.keys()
            if given <= made.keys() and all(made[name] == now[name] for name in known):
                return record
        return None

    def put(self, cell: Cell) -> None:
        """Store what the cell's run left in its eval.json, and write the file.

        DTYPE="auto" is kept as what it came to, which the run's checkpoint says.
        """
        folder = cell.job.script.parent
        result = folder / "results" / cell.job.run / "eval.json"
        made = read_object(
            result, "delete it: the run is then evaluated again", constants=dict, values=dict, units=dict
        )
        checkpoint = folder / "checkpoints" / cell.job.run / "config.json"
        if made["constants"].get("DTYPE") == "auto" and checkpoint.exists():
            made["constants"]["DTYPE"] = read_object(checkpoint, base_dtype=str)["base_dtype"]
        record = {
            "constants": _that_count(made["constants"]),
            "values": {
                mode: {name: [round(value, 5) for value in found] for name, found in values.items()}
                for mode, values in made["values"].items()
            },
            "units": made["units"],
        }
        # another grid may have written to it since
        self.records = [*self._read(), record]
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in self.records))


def _that_count(constants: Mapping[str, Any]) -> dict[str, Any]:
    # as JSON has them: tuples are lists there
    return json.loads(json.dumps({k: v for k, v in sorted(constants.items()) if not is_procedure(k)}))


def run_cells(cells: Sequence[Cell], store: Store, logs: Path, workers: int) -> list[Cell]:
    """Run the cells that the store does not have, `workers` at a time; returns those that failed.

    With 0 workers none is run: the report is then of what is there. Raises BadInput if another process runs
    cells of this store.
    """
    cells = list(dict.fromkeys(cells))
    missing = {cell.job: cell for cell in cells if not store.find(cell)}
    if len(missing) < len(cells):
        print(f"{len(cells) - len(missing)} of {len(cells)} cells are in {store.path.name} already")
    if not workers:
        return []
    with held(store.path):
        failed = run_jobs(list(missing), logs, workers, lambda job: store.put(missing[job]))
    return [missing[job] for job in failed]
