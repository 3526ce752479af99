"""The log of a run: one JSON line a step."""

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.errors import BadInput
from lab.files import is_writer, parse_object, write_text, writing
from lab.trackers import report


class JsonLines:
    """Appends a line a step.

    A resumed run drops the lines of steps that it runs again and goes on behind the others. Lines of a
    `tracked` log also go where REPORT_TO says.
    """

    def __init__(self, path: Path, tracked: bool = False):
        self.path = path
        self.tracked = tracked
        self.started = False

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append {"step": step, **values}; does nothing in other processes than the first."""
        if not is_writer():
            return
        if not self.started:
            lines = read_log(self.path) if step and self.path.exists() else []
            kept = [line for line in lines if line["step"] < step]
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
            self.started = True
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}, default=float) + "\n")
        if self.tracked:
            report(self.path, values, step)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a JSONL log; a last line cut short by a kill is dropped.

    Raises BadInput for any other line that is no JSON object: who goes on would lose what stands behind it.
    """
    *lines, last = path.read_bytes().split(b"\n")
    advice = "mend it, or delete the line"
    read = [
        parse_object(line, f"{path}, line {number},", advice) for number, line in enumerate(lines, start=1)
    ]
    # a whole one without its end of line is one, too
    with contextlib.suppress(BadInput):
        read.append(parse_object(last, "", ""))
    return read


def moving_average(values: Sequence[float | None], window: int) -> list[float]:
    """The trailing mean over `window` values, skipping None (nan where there is none yet)."""
    averages = []
    for end in range(1, len(values) + 1):
        recent = [value for value in values[max(0, end - window) : end] if value is not None]
        averages.append(sum(recent) / len(recent) if recent else math.nan)
    return averages
