"""Where the time goes: seconds by name."""

import contextlib
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar

_totals: dict[str, float] = {}
_lock = threading.Lock()
# the names whose blocks are open in this thread or task
_open: ContextVar[frozenset[str]] = ContextVar("open", default=frozenset())


@contextlib.contextmanager
def timed(name: str) -> Iterator[None]:
    """Add the block's wall-clock seconds to the total of `name`, also if it raises.

    An outer name's seconds include those of the names inside. A name inside itself counts once. Blocks that
    run side by side in threads or tasks add up, so their total may exceed the time that passed. On a GPU,
    which works on by itself, seconds fall to the block that waits for the result.
    """
    names = _open.get()
    if name in names:
        yield
        return
    token, start = _open.set(names | {name}), time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - start
        _open.reset(token)
        with _lock:
            _totals[name] = _totals.get(name, 0.0) + seconds


def totals() -> dict[str, float]:
    """Seconds by name so far, most first."""
    with _lock:
        return dict(sorted(_totals.items(), key=lambda item: -item[1]))


def reset_totals() -> None:
    """Forget all seconds. Blocks that are open will still add theirs."""
    with _lock:
        _totals.clear()


def format_totals() -> str:
    """The totals on one line: "generate 12.3 s, judge 4.0 s"."""
    return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in totals().items())
