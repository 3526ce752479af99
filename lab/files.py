"""Writing files and folders whole or not at all, and short hashes of what was read."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lab.errors import BadInput


def is_writer() -> bool:
    """True in the process that writes files: the first of those that torchrun started, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` at the end of the block.

    If the block fails it vanishes. Of several processes only the first one writes: the others' path is in a
    folder that goes away.
    """
    if not is_writer():
        with tempfile.TemporaryDirectory() as elsewhere:
            yield Path(elsewhere) / path.name
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # the suffix stays last: writers such as savefig go by it
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_new(constant: str, path: str) -> Path:
    """`path`, where a folder is to be written. Raises BadInput if it is empty or there already."""
    if not path or os.path.lexists(path):
        raise BadInput(f"{constant}={path!r}: give a folder that does not exist yet; nothing is overwritten")
    return Path(path)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which becomes `path` at the end of the block.

    If the block fails it vanishes with all that is in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        yield temporary
        # mkdtemp and safetensors write for their owner alone
        for made in (temporary, *temporary.rglob("*")):
            made.chmod(0o755 if made.is_dir() else 0o644)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text`, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def fingerprint(texts: Iterable[str]) -> str:
    """A short hash of texts, in order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:16]
