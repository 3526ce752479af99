"""Rows of somebody's own data, from a .jsonl file or the Hub, and what their columns hold."""

import codecs
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.errors import BadInput
from routing.assets import load_hub_split

# the columns that mean something here; a task may read others
COLUMN_NAMES = ("prompt", "response", "text", "messages", "label", "kind", "group")

Row = dict[str, Any]


def read_rows(name: str, folder: Path) -> list[tuple[int, Any]]:
    """What DATA=`name` holds, with numbers from 1: lines of JSON, as bytes, or rows of a Hub data set.

    `name`: a .jsonl file, from the current folder or else from `folder` (blank lines are counted and left
    out); or a Hub id (or a local folder in that form), of which the split "train" is read. Raises BadInput if
    there is no such thing, or nothing in it.
    """
    path = next((path for path in (Path(name), folder / name) if path.is_file()), None)
    if path is not None:
        # in bytes: a text's lines would also end at characters that strings in JSON may hold
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
        rows: list[tuple[int, Any]] = [(n, line) for n, line in enumerate(lines, start=1) if line.strip()]
    elif Path(name).suffix in (".jsonl", ".json"):
        raise BadInput(f"DATA={name!r}: no such file, neither in {Path.cwd()} nor in {folder}")
    else:
        rows = list(enumerate(load_hub_split("DATA", name, "train"), start=1))
    if not rows:
        raise BadInput(f"DATA={name!r}: it has no lines")
    return rows


def parse_row(row: bytes | Row) -> Row:
    """A line of JSON as a row; a row stays one. Raises BadInput for what is no object of UTF-8 text."""
    try:
        row = json.loads(row.decode()) if isinstance(row, bytes) else row
        # a lone surrogate passes for JSON, but is no character
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeError:
        raise BadInput("not UTF-8 text") from None
    # ValueError: a number of thousands of digits
    except (ValueError, RecursionError) as error:
        raise BadInput(f"no valid JSON ({error})") from None
    if not isinstance(row, dict):
        raise BadInput('expected an object, like {"prompt": ..., "response": ...}')
    return row


def parse_column_names(text: str) -> dict[str, str]:
    """COLUMN_NAMES="prompt=question, label=flag" as {"prompt": "question", "label": "flag"}."""
    theirs = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        ours, _, other = map(str.strip, pair.partition("="))
        if not other or ours not in COLUMN_NAMES:
            raise BadInput(
                f"COLUMN_NAMES={text!r}: write it like prompt=question, response=answer; "
                f"the names on the left are {', '.join(COLUMN_NAMES)}"
            )
        theirs[ours] = other
    return theirs


def rename_columns(row: Row, theirs: Mapping[str, str]) -> Row:
    """The row under our names, without empty columns (null); `theirs`: see `parse_column_names`."""
    there = {column: value for column, value in row.items() if value is not None}
    taken = set(theirs.values())
    renamed = {ours: there[other] for ours, other in theirs.items() if other in there}
    return {column: value for column, value in there.items() if column not in taken} | renamed


def only_one(row: Row, *names: str) -> str:
    """Which of the columns `names` the row has. Raises BadInput unless it is exactly one."""
    there = [name for name in names if name in row]
    if len(there) != 1:
        found = ", ".join(there or row) or "nothing"
        raise BadInput(f"it needs one of {', '.join(names)}; it has {found}")
    return there[0]


def text_of(row: Row, name: str, default: str | None = None) -> str:
    """The text in the column `name`. With a `default`, that stands for what is missing or "".

    Raises BadInput for what is no text, or blank.
    """
    if default is not None and row.get(name, "") == "":
        return default
    if not isinstance(row.get(name), str):
        raise BadInput(f"{name} is no text")
    if not row[name].strip():
        raise BadInput(f"{name} is blank")
    return row[name]
