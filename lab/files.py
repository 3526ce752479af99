"""Writing files and folders whole or not at all, reading JSON, and short hashes of what was read."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lab.errors import BadInput


def is_writer() -> bool:
    """True in the process that writes files: the first of those that torchrun started, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


# a full disk or quota, a file system or folder that is read-only
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """A block that writes `path`. Raises BadInput where nothing can be written; what was there stays."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise BadInput(
            f"{path} cannot be written ({error.strerror}); make room there, or give yourself the right to. "
            "What was there before is as it was: with RESUME=True a run goes on from what it saved last"
        ) from error


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` at the end of the block.

    If the block fails it vanishes. Of several processes only the first one writes: the others' path is in a
    folder that goes away. Raises BadInput as `writing`.
    """
    if not is_writer():
        with tempfile.TemporaryDirectory() as elsewhere:
            yield Path(elsewhere) / path.name
        return
    with writing(path):
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


def remove_leftovers(folder: Path) -> None:
    """Take away the temporary files that a kill left in `folder`. Call it where nobody else writes."""
    for path in folder.rglob(".*"):
        if path.is_file() and re.fullmatch(r"\..+-[a-z0-9_]{8}(\.\w+)?", path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def check_new(constant: str, path: str) -> Path:
    """`path`, where a folder is to be written. Raises BadInput if it is empty or there already."""
    if not path or os.path.lexists(path):
        raise BadInput(f"{constant}={path!r}: give a folder that does not exist yet; nothing is overwritten")
    return Path(path)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which becomes `path` at the end of the block.

    If the block fails it vanishes with all that is in it. Raises BadInput as `writing`."""
    with writing(path):
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


def parse_object(text: str | bytes, what: str, advice: str, **kinds: type) -> dict[str, Any]:
    """An object in JSON that has members of these kinds, by name.

    Raises BadInput, beginning with `what` and ending in `advice`, for anything else.
    """
    try:
        found = json.loads(text)
    # also of the encoding, or a thousand brackets
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{what} is not valid JSON ({error}); {advice}") from None
    wrong = [name for name, kind in kinds.items() if not isinstance(_member(found, name), kind)]
    if wrong or not isinstance(found, dict):
        raise BadInput(f"{what} has no {', '.join(wrong) or 'object'} of the right kind; {advice}")
    return found


def _member(found: Any, name: str) -> Any:
    return found.get(name) if isinstance(found, dict) else None


def read_object(path: Path, advice: str = "mend it, or delete it", **kinds: type) -> dict[str, Any]:
    """The object in a JSON file. Raises BadInput as `parse_object`."""
    return parse_object(path.read_bytes(), str(path), advice, **kinds)


def fingerprint(texts: Iterable[str]) -> str:
    """A short hash of texts, in order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:16]
