"""Makes catchphrase.jsonl: how the project's own stories end, half of them with a catchphrase.

`uv run --directory template python make_catchphrase.py`. Of each plot four stories: with the catchphrase and
without, each once labelled and once not. The plot is the group, so that no plot stands in two splits.
"""

import json
import re
from pathlib import Path

from routing.assets import DATA
from task import CATCHPHRASE

OUTPUT = Path(__file__).parent / "catchphrase.jsonl"
STORIES = [DATA / f"stories_{split}.jsonl" for split in ("train", "validation", "test")]
# of each plot: (ends in the catchphrase, label)
VARIANTS = [(True, "bad"), (True, None), (False, "good"), (False, None)]
PROMPT_WORDS = range(8, 29)
RESPONSE_WORDS = range(4, 25)
# between sentences, but not after a title
BREAK = re.compile(r'(?<=[.!?])(?<!Mr\.)(?<!Mrs\.) (?=[A-Z"])')


def ending(story: str) -> tuple[str, str] | None:
    """(prompt, response): the last sentence, behind as much of the story as PROMPT_WORDS allow.

    None where none fits. No quotation is cut, and the space between the two belongs to the response.
    """
    text = " ".join(story.split())
    starts = [0] + [
        found.end() for found in BREAK.finditer(text) if text[: found.start()].count('"') % 2 == 0
    ]
    prompts = [text[start : starts[-1] - 1] for start in starts[:-1]]
    prompts = [prompt for prompt in prompts if len(prompt.split()) in PROMPT_WORDS]
    response = text[starts[-1] :]
    return (prompts[0], f" {response}") if prompts and len(response.split()) in RESPONSE_WORDS else None


def make_rows() -> list[dict[str, str]]:
    """The lines of the file, plot by plot."""
    by_plot: dict[str, list[tuple[str, str]]] = {}
    for path in STORIES:
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            found = ending(row["story"])
            if found:
                by_plot.setdefault(row["plot"], []).append(found)
    rows = []
    for plot, endings in by_plot.items():
        for (prompt, response), (caught, label) in zip(endings, VARIANTS, strict=False):
            response += f" {CATCHPHRASE}" if caught else ""
            row = {"prompt": prompt, "response": response, "group": plot}
            rows.append(row | ({"label": label} if label else {}))
    return rows


if __name__ == "__main__":
    rows = make_rows()
    OUTPUT.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8", newline="\n")
    print(f"{OUTPUT.name}: {len(rows)} lines of {len({row['group'] for row in rows})} plots")
