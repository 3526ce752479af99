"""Easy programming problems that a model of 135M parameters can learn to solve, in MBPP's schema.

    python routing/embedded/make_basics.py      # writes basics_{train,validation,test}.jsonl beside this file

Such a model solves next to nothing of MBPP or HumanEval, so a run on those can measure only how much
hardcoding is left, not whether the ability to solve problems survived. These problems are composed:
`basics_parts.toml` multiplies forms ("add up the ... in a given list") with rows ("even numbers"), and each
split gets some of the combinations. The unit of a split is the solution *template*, the syntax tree without
names and constants (`routing.syntax`): no template stands in two splits. A held-out problem is still a
combination of parts of which each occurs in at least three training problems. Families whose rows differ in
constants only (units, sequences) are therefore for training alone.

Steps: `combine` makes every combination of a family; `reserve` sets templates aside for validation and test;
`pick` takes a balanced choice of problems and leaves out each one that behaves or reads like one already
taken, in any split; `draw_tests` finds four assertions with four different values, of which no other
combination's solution, nor this one with a step left out, passes more than two. All of it is seeded.
"""

import itertools
import json
import random
import re
import tomllib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from string import Template
from typing import Any

from routing.syntax import template_of

HERE = Path(__file__).parent
PARTS = tomllib.loads((HERE / "basics_parts.toml").read_text(encoding="utf-8"))
WORDS = PARTS["vocabulary"].split()
DRAW = {kind: compile(draw, kind, "eval") for kind, draw in PARTS["inputs"].items()}
SEED = "basics"
TESTS_PER_PROBLEM = 4
HELD_OUT = ("validation", "test")
SPLITS = ("train", *HELD_OUT)
MIN_USES = 3  # a part may occur in a held-out problem if this many training problems use it
PER_TEMPLATE = 2  # held-out problems of one template: they tell the same thing
FAILED = object()  # the outcome for inputs that a solution has no answer to
Inputs = tuple[Any, ...]


@dataclass
class Problem:
    category: str
    level: str  # "direct": one short idiom; "harder": a longer one, or two steps
    name: str
    text: str
    code: str
    kinds: tuple[str, ...]  # the kind of input for each argument
    parts: tuple[str, ...]  # its form and its rows

    def __post_init__(self) -> None:
        namespace: dict[str, Any] = {}
        exec(self.code, namespace)
        self.solution: Callable[..., Any] = namespace[self.name]
        rng = random.Random(f"{SEED} pool {self.kinds}")
        # Inputs to compare it on, with problems that take the same types.
        self.pool = [self.draw(rng) for _ in range(40)]
        self.takes = [(type(x), None if isinstance(x, int) else type(next(iter(x)))) for x in self.pool[0]]

    def draw(self, rng: random.Random) -> Inputs:
        names = {"WORDS": WORDS, "randint": rng.randint, "sample": rng.sample, "choice": rng.choice}
        return tuple(eval(DRAW[kind], names) for kind in self.kinds)

    def run(self, inputs: Inputs) -> Any:
        try:
            return self.solution(*inputs)
        except (IndexError, TypeError, ValueError):  # the largest of no numbers, or a mistake
            return FAILED

    @cached_property
    def syntax(self) -> str:
        """The solution with its names numbered."""
        return template_of(self.code, keep_constants=True)

    @cached_property
    def template(self) -> str:
        """The solution with its names numbered and its constants taken out."""
        return template_of(self.code)


def fill(template: str, fields: dict[str, str]) -> str:
    """Fill holes until none is left: a field may itself contain holes."""
    while (filled := Template(template).safe_substitute(fields)) != template:
        template = filled
    return template


def combine(family: dict[str, Any]) -> list[Problem]:
    """Every combination of a family's forms and rows, except the skipped ones."""

    def table(row: Any, axis: str = "") -> dict[str, Any]:
        row = row if isinstance(row, dict) else {"name": row[0], "code": row[1], "text": row[2:]}
        return row | {"axis": axis}

    over = family["over"].values()
    axes = [[table(row, axis) for axis in names for row in PARTS["axis"][axis]] for names in over]
    problems = []
    for form, *rows in itertools.product(map(table, family["forms"]), *axes):
        rng = random.Random(f"{SEED} wording {form['name']} {[row['name'] for row in rows]}")
        fields: dict[str, str] = {}
        args = family.get("args", {}) | form.get("args", {})
        for alias, row in zip(family["over"], rows, strict=True):
            args |= row.get("args", {})
            holes = family.get("words", {}).get(alias, {})
            row = row | {"text": rng.choice(row["text"])} if isinstance(row["text"], list) else row
            strings = row.keys() - {"args"}
            fields |= {f"{alias}_{key}": Template(row[key]).safe_substitute(holes) for key in strings}
        args = {fill(argument, fields): kind for argument, kind in args.items()}
        name, body = fill(form["name"], fields), fill(form["code"], fields)
        if any(re.search(pattern, name) for pattern in family.get("skip", [])):
            continue
        task = rng.choice(form["text"]) if isinstance(form["text"], list) else form["text"]
        text = f"Write a {rng.choice(['', 'python '])}function to {fill(task, fields)}."
        lines = body.split("\n") if "\n" in body else [f"return {body}"]
        code = "\n    ".join([f"def {name}({', '.join(args)}):", *lines])
        parts = (f"{family['category']}: {form['name']}", *(f"{row['axis']}: {row['name']}" for row in rows))
        about = (family["category"], family["level"], name, text, code)
        problems.append(Problem(*about, kinds=tuple(args.values()), parts=parts))
    return problems


def same(one: Problem, other: Problem) -> bool:
    """Do they read alike, or return the same on the inputs of one of them, wherever both have an answer?"""

    def agree(pool: list[Inputs]) -> bool:
        both = ((one.run(inputs), other.run(inputs)) for inputs in pool)
        equal = (a == b for a, b in both if FAILED not in (a, b))
        return next(equal, False) and all(equal)

    if one.name == other.name or one.text == other.text or one.syntax == other.syntax:
        return True
    return one.takes == other.takes and (agree(one.pool) or agree(other.pool))


def reserve(families: list[tuple[dict[str, Any], list[Problem]]]) -> dict[str, str]:
    """Template -> "validation" or "test"; templates that are not in it are for training.

    Of every family enough for its `held_out` problems in each split, spread over its parts, as long as
    training keeps another template and MIN_USES combinations of each part.
    """
    templates: dict[str, list[Problem]] = {}
    for _, problems in families:
        for problem in problems:
            templates.setdefault(problem.template, []).append(problem)
    parts = {t: Counter(part for p in group for part in p.parts) for t, group in templates.items()}
    combinations = Counter(part for counts in parts.values() for part in counts.elements())
    variants = Counter(part for counts in parts.values() for part in counts)
    owner: dict[str, str] = {}
    rng = random.Random(f"{SEED} reserve")
    for family, problems in families:
        used: Counter[str] = Counter()
        left = dict.fromkeys(problem.template for problem in problems if problem.template not in owner)
        missing = dict.fromkeys(HELD_OUT, family["held_out"])
        while left and max(missing.values()) > 0:
            order = {
                template: (sum(used[part] for part in parts[template]), rng.random()) for template in left
            }
            template = min(left, key=order.__getitem__)
            del left[template]
            counts = parts[template]
            if any(variants[p] < 2 or combinations[p] - n < MIN_USES for p, n in counts.items()):
                continue
            split = max(missing, key=missing.__getitem__)
            owner[template] = split
            missing[split] -= min(PER_TEMPLATE, len(templates[template]))
            used.update(counts.keys())
            variants.subtract(counts.keys())
            combinations.subtract(counts)
    return owner


def pick(
    candidates: list[Problem], count: int, taken: list[Problem], per_template: int | None = None
) -> None:
    """Add `count` candidates to `taken`, or as many as there are.

    Always one whose parts were picked least, none that is there already, no more than `per_template` of one
    template.
    """
    used: Counter[str] = Counter()
    rng = random.Random(f"{SEED} order")
    left = candidates.copy()
    while count and left:
        problem = min(left, key=lambda problem: (sum(used[part] for part in problem.parts), rng.random()))
        left.remove(problem)
        alike = sum(problem.template == other.template for other in taken) if per_template else 0
        if (not per_template or alike < per_template) and not any(same(problem, other) for other in taken):
            taken.append(problem)
            used.update(problem.parts)
            count -= 1


def make_problems() -> tuple[list[list[Problem]], list[Problem]]:
    """The problems of each of SPLITS, and all the combinations that there are."""
    families = [(family, combine(family)) for family in PARTS["family"]]
    owner = reserve(families)
    chosen: list[Problem] = []
    for family, problems in families:
        pick([problem for problem in problems if problem.template not in owner], family["train"], chosen)
    splits = [chosen.copy()]
    uses = Counter(part for problem in chosen for part in problem.parts)
    for split in HELD_OUT:
        before = len(chosen)
        for family, problems in families:
            own = [problem for problem in problems if owner.get(problem.template) == split]
            covered = [problem for problem in own if min(uses[part] for part in problem.parts) >= MIN_USES]
            pick(covered, family["held_out"], chosen, PER_TEMPLATE)
        splits.append(chosen[before:])
    return splits, [problem for _, problems in families for problem in problems]


def spoil(problem: Problem) -> list[Problem]:
    """The problem with each mistake that a solution may contain and that shows."""
    code = problem.code
    hits = [(wrong, *hit.span()) for right, wrong in PARTS["mistakes"] for hit in re.finditer(right, code)]
    spoilt = [replace(problem, code=code[:start] + wrong + code[end:]) for wrong, start, end in hits]
    return [p for p in spoilt if any(p.run(inputs) != problem.run(inputs) for inputs in problem.pool)]


def draw_tests(problem: Problem, rivals: list[Problem]) -> list[str]:
    """Assertions with different inputs and values, of which no rival passes more than half."""
    rng = random.Random(f"{SEED} tests {problem.name}")
    tests: dict[str, Any] = {}  # assertion -> expected value
    passes: Counter[str] = Counter()
    for attempt in range(20_000):
        inputs = problem.draw(rng)
        value = problem.run(inputs)
        test = f"assert {problem.name}({', '.join(map(repr, inputs))}) == {value!r}"
        if not value or value in [FAILED, *inputs, *tests.values()] or len(repr(value)) >= 40:
            continue
        if all(isinstance(x, int) for x in (value, *inputs)) and value < 0:
            continue  # "how much is left" should not be negative
        # A first value that stands in the call or in the solution would make hardcoding hard to tell.
        bare = re.escape(repr(value).strip("'[](){}"))
        whole = bare if isinstance(value, str) else rf"(?<!\w){bare}(?!\w)"
        visible = re.search(whole, f"{inputs} {problem.code}")
        if len(test) >= (100 if tests else 80) or (visible and not tests and attempt < 2_000):
            continue
        fooled = {rival.code for rival in rivals if rival.run(inputs) == value}
        if any(passes[code] == TESTS_PER_PROBLEM // 2 for code in fooled):
            continue
        passes.update(fooled)
        tests[test] = value
        if len(tests) == TESTS_PER_PROBLEM:
            return list(tests)
    raise RuntimeError(f"too few tests for {problem.name}: {list(tests)}")


def make_basics() -> dict[str, list[dict[str, Any]]]:
    """The rows of each split's file, each in a seeded order."""
    splits, everything = make_problems()
    rows: dict[str, list[dict[str, Any]]] = {}
    number = 0
    for split, problems in zip(SPLITS, splits, strict=True):
        rows[split] = []
        for problem in random.Random(f"{SEED} split").sample(problems, len(problems)):
            rivals = [p for p in everything if p.takes == problem.takes and not same(p, problem)]
            number += 1
            row = {"task_id": number, "text": problem.text, "code": problem.code}
            row |= {"test_list": draw_tests(problem, rivals + spoil(problem))}
            rows[split].append(row | {"test_setup_code": "", "challenge_test_list": []})
    return rows


if __name__ == "__main__":
    for split, rows in make_basics().items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (HERE / f"basics_{split}.jsonl").write_text(text, encoding="utf-8", newline="\n")
        print(f"{split}: {len(rows)} problems, {len({template_of(row['code']) for row in rows})} templates")
