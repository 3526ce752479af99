"""Writes the project's own short children's stories: stories_{train,validation,test}.jsonl.

A story follows one plot skeleton from story_parts.toml. A plot has a cast and six beats (opening, problem,
attempt, dialogue, turn, ending), and every beat comes in several wordings, one of which is drawn. The blanks
in a wording are then filled in: cast members with their pronouns, and typed slots such as a toy, a tree or a
soup, which keep their value until the end of the story. The notation is explained at the top of the TOML.

Four rules keep the set varied and the splits apart:
  * a plot belongs to one split (see `split_plots`), so the held-out stories tell of other things, in other
    words;
  * no two stories have the same plot and the same hero;
  * no two stories share more than MAX_SHARED of their runs of eight words (see `runs_of`); a draw that would
    is thrown away and drawn again;
  * the plots of a split take turns, so all of them occur about equally often, also among its first stories.
What the splits still have in common are names, things to fill in, and what introduces speech ("said Nana.").

Everything is drawn from seeded generators, so each run writes the same bytes.

    python routing/embedded/make_stories.py
"""

import json
import random
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SEED = 20240607
COUNTS = {"train": 2000, "validation": 300, "test": 300}  # stories
HELD_OUT_PLOTS = 0.15  # of the plots, for validation and for test each
MIN_WORDS, MAX_WORDS = 40, 120
RUN = 8  # words in a run when two stories are compared
MAX_SHARED = 0.3
MAX_DRAWS = 20_000  # of one story, until it is far enough from all others
SKIP = 0.3  # how often the hero's first attempt is left out, where the plot can do without it
BEATS = ("opening", "problem", "attempt", "dialogue", "turn", "ending")
# Where paragraphs may break (after how many beats), with weights; most stories are a single paragraph.
LAYOUTS = {(): 8, (2,): 2, (3,): 2, (4,): 2, (5,): 1, (2, 4): 2, (1, 3): 1, (2, 5): 1, (3, 5): 1}
TITLES = {"he": ("Mr.",), "she": ("Mrs.", "Miss")}

CHOICE = re.compile(r"\[([^\]]*)\]")  # [big|great]
BLANK = re.compile(r"\{(\w+)(?: (\w+))?\}")  # {toy}, {f his}
ARTICLE = re.compile(r"\b([Aa]) (?!uni|use|usu|uku|one\b)(?=[aeiou])")  # an "a" that should be "an"

Entry = dict[str, str]  # one drawn thing or person: "one" is its name, the other keys its forms


@dataclass(frozen=True)
class Story:
    plot: str
    hero: str
    text: str


class StoryTeller:
    """Draws stories from the parts file."""

    def __init__(self, parts: dict, rng: random.Random) -> None:
        self.rng = rng
        self.plots: list[dict] = parts["plot"]
        columns = parts["forms"]["columns"].split()
        self.forms = {
            row: dict(zip(columns, text.split(), strict=True))
            for row, text in parts["forms"].items()
            if row != "columns"
        }
        self.names = {kind: text.split() for kind, text in parts["names"].items()}
        self.kin = {
            kind: [row.rsplit(" ", 1) for row in _listed(text)] for kind, text in parts["kin"].items()
        }
        self.kinds = {pool: _listed(text) for pool, text in parts["kinds"].items()}
        self.slots = {slot: [{"one": one} for one in _listed(text)] for slot, text in parts["slots"].items()}
        for slot, table in parts["tables"].items():
            heads = table["columns"].split()
            rows = [[cell.strip() for cell in row.split("|")] for row in table["rows"].strip().splitlines()]
            self.slots[slot] = [dict(zip(heads, row, strict=True)) for row in rows]

    def tell(self, plot: dict) -> Story:
        bound: dict[str, Entry] = {}
        # The hero first: nobody else may take the hero's name.
        for letter, role in ({"h": "child"} | plot["cast"]).items():
            bound[letter] = self._person(role, bound)
        told = [beat for beat in BEATS if beat != "attempt" or plot.get("whole") or self.rng.random() > SKIP]
        beats = [self._fill(self.rng.choice(plot[beat].strip().splitlines()), bound) for beat in told]
        breaks = self.rng.choices(list(LAYOUTS), weights=list(LAYOUTS.values()))[0]
        text = beats[0]
        for index, beat in enumerate(beats[1:], start=1):
            text += ("\n\n" if index in breaks else " ") + beat
        return Story(plot["name"], bound["h"]["one"], text)

    def _person(self, role: str, bound: dict[str, Entry]) -> Entry:
        """A cast member whose name (and, for animals, kind) nobody in the story has yet."""
        taken = {value for person in bound.values() for value in (person["one"], person.get("kind"))}
        pronoun = self.rng.choice(["he", "she"])
        kind = ""
        if role == "child":
            name = self._fresh(self.names[pronoun], taken)
        elif role == "elder":
            name = f"{self.rng.choice(TITLES[pronoun])} {self.rng.choice(self.names['family'])}"
        elif role in self.kin:
            name, pronoun = self.rng.choice(self.kin[role])
        else:
            name = self._fresh(self.names["animal"], taken)
            kind = self._fresh(self.kinds[role], taken)
        return {"one": name, "kind": kind} | self.forms[pronoun]

    def _fresh(self, choices: list[str], taken: set[str | None]) -> str:
        return self.rng.choice([choice for choice in choices if choice not in taken])

    def _fill(self, line: str, bound: dict[str, Entry]) -> str:
        """One wording with its alternatives chosen, its blanks filled and its articles put right."""
        line = CHOICE.sub(lambda match: self.rng.choice(match[1].split("|")), line)
        line = BLANK.sub(lambda match: self._blank(match[1], match[2] or "one", bound), line)
        line = ARTICLE.sub(r"\1n ", line)
        return re.sub(r" {2,}", " ", line).strip()  # an empty alternative leaves two spaces

    def _blank(self, key: str, form: str, bound: dict[str, Entry]) -> str:
        slot = key.lower()
        if slot in self.forms["he"]:  # a bare pronoun is the hero's
            slot, form = "h", key
        if slot not in bound:
            base = slot.rstrip("0123456789")
            used = [entry["one"] for other, entry in bound.items() if other.rstrip("0123456789") == base]
            entry = self.rng.choice([entry for entry in self.slots[base] if entry["one"] not in used])
            bound[slot] = self.forms[entry.get("as", "it")] | entry
        value = bound[slot][form.lower()]
        return value[0].upper() + value[1:] if key[0].isupper() or form[0].isupper() else value


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")]


def words(text: str) -> list[str]:
    """The words of a text, lower-cased and without punctuation."""
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower())


def runs_of(text: str) -> set[tuple[str, ...]]:
    """All runs of RUN consecutive words.

    Two stories are compared by the share of the runs of the one with fewer runs that also occur in the other:
    0 for unrelated stories, 1 where one contains the other.
    """
    listed = words(text)
    return {tuple(listed[start : start + RUN]) for start in range(len(listed) - RUN + 1)}


class Gatekeeper:
    """Knows the stories taken so far and turns away what is too close to any of them."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        self.pairs: set[tuple[str, str]] = set()

    def admits(self, story: Story) -> bool:
        runs = runs_of(story.text)
        n_words = len(story.text.split())
        if (story.plot, story.hero) in self.pairs or not MIN_WORDS <= n_words <= MAX_WORDS:
            return False
        common = Counter(number for run in runs for number in self.holders.get(run, ()))
        if any(count > MAX_SHARED * min(len(runs), self.sizes[number]) for number, count in common.items()):
            return False
        for run in runs:
            self.holders[run].append(len(self.sizes))
        self.sizes.append(len(runs))
        self.pairs.add((story.plot, story.hero))
        return True


def split_plots(names: Collection[str]) -> dict[str, list[str]]:
    """Split -> the names of its plots, HELD_OUT_PLOTS of them for validation and for test each.

    It depends on names alone.
    """
    shuffled = sorted(names)
    random.Random(f"{SEED} plots").shuffle(shuffled)
    held_out = round(HELD_OUT_PLOTS * len(shuffled))
    return {
        "train": shuffled[2 * held_out :],
        "validation": shuffled[held_out : 2 * held_out],
        "test": shuffled[:held_out],
    }


def make_stories() -> dict[str, list[Story]]:
    """Split -> its stories, in the order of the committed files."""
    parts = tomllib.loads((HERE / "story_parts.toml").read_text(encoding="utf-8"))
    plots = {plot["name"]: plot for plot in parts["plot"]}
    gate = Gatekeeper()
    stories: dict[str, list[Story]] = {split: [] for split in COUNTS}
    for split, names in split_plots(plots).items():
        rng = random.Random(f"{SEED} {split}")
        teller = StoryTeller(parts, rng)
        while len(stories[split]) < COUNTS[split]:
            turns = rng.sample(names, min(len(names), COUNTS[split] - len(stories[split])))
            stories[split] += [_admitted(teller, gate, plots[name]) for name in turns]
    return stories


def _admitted(teller: StoryTeller, gate: Gatekeeper, plot: dict) -> Story:
    """The first story of the plot that the gatekeeper lets in."""
    for _ in range(MAX_DRAWS):
        story = teller.tell(plot)
        if gate.admits(story):
            return story
    raise RuntimeError(
        f"plot {plot['name']!r}: every new story is too close to another; give it more wordings"
    )


def main() -> None:
    for split, stories in make_stories().items():
        lines = [json.dumps({"story": story.text, "plot": story.plot}) + "\n" for story in stories]
        path = HERE / f"stories_{split}.jsonl"
        path.write_text("".join(lines), encoding="utf-8", newline="\n")
        print(f"{path.name}: {len(stories)} stories of {len({story.plot for story in stories})} plots")


if __name__ == "__main__":
    main()
