"""One process at a time writes a run, a sweep, a grid or a cache: two would overwrite each other's files.

The locks are the kernel's (flock). They go with the process that holds them, however it ends, so a lock file
that was left behind blocks nobody.
"""

import atexit
import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from lab.errors import BadInput
from lab.files import is_writer

# lock file -> its descriptor
_held: dict[Path, int] = {}
# a forked process has to ask for itself
os.register_at_fork(after_in_child=_held.clear)


def lock_file(path: Path) -> Path:
    """The file beside `path`, a file or a folder, that whoever writes `path` holds. It says who that is."""
    return (path.parent / f".{path.name}.lock").absolute()


def hold(path: Path) -> None:
    """Keep other processes from writing `path` until this one ends, or calls `release`. Again is fine.

    Of several processes of one run the first one holds it for all. Raises BadInput, naming the process, if
    another one holds it, and if the folder cannot be written.
    """
    file = lock_file(path)
    if not is_writer() or (file in _held and _is_there(file, _held[file])):
        return
    descriptor = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        while descriptor is None:
            try:
                descriptor = _lock(file)
            except BlockingIOError:
                # None: another process only looked, in `working_on`, and has let go by now
                if busy := working_on(path):
                    raise BadInput(f"{path}: {busy}") from None
    except OSError as error:
        raise BadInput(
            f"{file.parent} cannot be written ({error.strerror}); make room there, "
            "or give yourself the right to, or copy the script's folder to where you have both"
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    _held[file] = descriptor


def release(path: Path) -> None:
    """Let others write `path`; its lock file goes, and with it a folder that nothing was written to."""
    file = lock_file(path)
    if file in _held:
        descriptor = _held.pop(file)
        with contextlib.suppress(OSError):
            if _is_there(file, descriptor):
                # before it is let go: what another process holds from here on is a file of its own
                file.unlink()
            file.parent.rmdir()
        os.close(descriptor)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """`hold` in a block; only what was not held before is released behind it."""
    before = lock_file(path) in _held
    hold(path)
    try:
        yield
    finally:
        if not before:
            release(path)


def working_on(path: Path) -> str | None:
    """What to say if another process holds `path`; None if none does."""
    file = lock_file(path)
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        process = os.read(descriptor, 20).decode().strip() or "unknown"
        return f"process {process} is working on it; wait until it ends, or end it, or give another name"
    finally:
        os.close(descriptor)


@atexit.register
def release_all() -> None:
    """Release what this process holds; its end does."""
    for file in list(_held):
        release(file.with_name(file.name.removeprefix(".").removesuffix(".lock")))


def _lock(file: Path) -> int:
    """The descriptor of the lock file, locked. Raises BlockingIOError if another process has locked it."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        # its holder may have taken it away between the two
        if _is_there(file, descriptor):
            return descriptor
        os.close(descriptor)


def _is_there(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
