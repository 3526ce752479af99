"""Training curves that grow under a notebook's cell while it runs; nothing outside a notebook."""

import importlib.util
import io
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.files import is_writer


def in_notebook() -> bool:
    """True in a kernel, whose front end can show figures; not at an IPython prompt in a terminal."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


Panels = Mapping[str, Mapping[str, str]]


class LivePlot:
    """The curves of a JSONL log, drawn again as it grows.

    That is every `seconds` at most, and takes a tenth of the time at most. They are those of
    `lab.plots.draw_training`, or with `panels` those of `lab.curves.draw_steps`.
    """

    def __init__(self, log: Path, title: str, panels: Panels | None = None, seconds: float = 5.0):
        self.log, self.title, self.panels, self.seconds = log, title, panels, seconds
        self.due = time.monotonic() + seconds
        # the handle of what is shown
        self.shown: Any = None

    def update(self) -> None:
        """Draw and show it again, if it is time, in place of what was shown before."""
        start = time.monotonic()
        if start < self.due or not in_notebook() or not is_writer():
            return
        if importlib.util.find_spec("matplotlib") is None:
            return
        from IPython.display import Image, display

        image = Image(self._draw())
        if self.shown is None:
            self.shown = display(image, display_id=True)
        else:
            self.shown.update(image)
        now = time.monotonic()
        self.due = now + max(self.seconds, 9 * (now - start))

    def clear(self) -> None:
        """Take it away: the whole curves are drawn now, by whoever draws them into a file."""
        if self.shown is not None:
            self.shown.update({"text/plain": ""}, raw=True)
            self.shown = None

    def _draw(self) -> bytes:
        # here: only a notebook needs them
        import matplotlib.pyplot as plt

        from lab.curves import draw_steps
        from lab.plots import draw_training

        if self.panels is None:
            figure = draw_training(self.log, self.title)
        else:
            figure = draw_steps(self.log, self.panels, self.title)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=80)
        plt.close(figure)
        return buffer.getvalue()
