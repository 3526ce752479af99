"""Easy programming problems that a model of 135M parameters can learn to solve, in MBPP's schema.

    python routing/embedded/make_basics.py      # writes basics_train.jsonl and basics_test.jsonl beside this file

Such a model solves next to nothing of MBPP or HumanEval, so a run on those can measure only how much hardcoding is
left, not whether the ability to solve problems survived. These problems are composed: `basics_parts.toml` multiplies
forms ("add up the ... in a given list") with rows ("even numbers"), and each split gets some of the combinations. A
test problem is a *new combination* of parts, each of which occurs in at least three training problems.

Steps: `combine` makes every combination of a family; `pick` takes a balanced choice of them and leaves out each one
that behaves or reads like one already taken, in either split; `draw_tests` finds four assertions with four different
values, of which no other combination's solution, nor this one with a step left out, passes more than two. All of it
is seeded.
"""

import ast
import builtins
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

HERE = Path(__file__).parent
PARTS = tomllib.loads((HERE / "basics_parts.toml").read_text(encoding="utf-8"))
WORDS = PARTS["vocabulary"].split()
DRAW = {kind: compile(draw, kind, "eval") for kind, draw in PARTS["inputs"].items()}
SEED = "basics"
TESTS_PER_PROBLEM = 4
MIN_USES = 3  # a part may occur in the test split if this many training problems use it
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
        """The syntax tree of the solution with every name but those of builtins replaced by a number."""
        tree = ast.parse(self.code)
        numbers: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                node.name = ""
            elif isinstance(node, ast.arg):
                node.arg = numbers.setdefault(node.arg, str(len(numbers)))
            elif isinstance(node, ast.Name) and not hasattr(builtins, node.id):
                node.id = numbers.setdefault(node.id, str(len(numbers)))
        return ast.dump(tree)


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
    """Do they read alike, or return the same on one's inputs or on the other's, wherever both have an answer?"""

    def agree(pool: list[Inputs]) -> bool:
        both = ((one.run(inputs), other.run(inputs)) for inputs in pool)
        equal = (a == b for a, b in both if FAILED not in (a, b))
        return next(equal, False) and all(equal)

    if one.name == other.name or one.text == other.text or one.syntax == other.syntax:
        return True
    return one.takes == other.takes and (agree(one.pool) or agree(other.pool))


def pick(candidates: list[Problem], count: int, taken: list[Problem]) -> None:
    """Add `count` candidates to `taken`: always one whose parts were picked least, and none that is there already."""
    used: Counter[str] = Counter()
    rng = random.Random(f"{SEED} order")
    left = candidates.copy()
    while count:
        problem = min(left, key=lambda problem: (sum(used[part] for part in problem.parts), rng.random()))
        left.remove(problem)
        if not any(same(problem, other) for other in taken):
            taken.append(problem)
            used.update(problem.parts)
            count -= 1


def make_problems() -> tuple[list[Problem], list[Problem], list[Problem]]:
    """The problems of the training split, those of the test split, and all the combinations that there are."""
    families = [(family, combine(family)) for family in PARTS["family"]]
    chosen: list[Problem] = []
    for family, problems in families:
        pick(problems, family["train"], chosen)
    train = chosen.copy()
    uses = Counter(part for problem in train for part in problem.parts)
    for family, problems in families:
        covered = [problem for problem in problems if min(uses[part] for part in problem.parts) >= MIN_USES]
        pick(covered, family["test"], chosen)
    return train, chosen[len(train) :], [problem for _, problems in families for problem in problems]


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


def make_basics() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of basics_train.jsonl and of basics_test.jsonl, each in a seeded order."""
    *splits, everything = make_problems()
    rows: list[dict[str, Any]] = []
    for problem in [p for split in splits for p in random.Random(f"{SEED} split").sample(split, len(split))]:
        rivals = [p for p in everything if p.takes == problem.takes and not same(p, problem)] + spoil(problem)
        row = {"task_id": len(rows) + 1, "text": problem.text, "code": problem.code}
        row |= {"test_list": draw_tests(problem, rivals), "test_setup_code": "", "challenge_test_list": []}
        rows.append(row)
    return rows[: len(splits[0])], rows[len(splits[0]) :]


if __name__ == "__main__":
    for split, rows in zip(("train", "test"), make_basics(), strict=True):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (HERE / f"basics_{split}.jsonl").write_text(text, encoding="utf-8", newline="\n")
