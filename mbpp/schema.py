"""A problem in MBPP's schema, and the reading and checking of rows in it."""

import ast
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lab.errors import BadInput
from routing.syntax import parse_code, template_of


@dataclass(frozen=True)
class Problem:
    """A task in words, a reference solution, and `assert` statements of which the prompt shows the first."""

    task_id: str
    text: str
    code: str  # without comments and docstrings
    tests: tuple[str, ...]  # at least two
    imports: str = ""  # for the tests, run before the solution
    setup: str = ""  # for the tests, run behind the solution: it may use the solution's classes

    def program(self, solution: str) -> str:
        """The module that the tests run in."""
        return "\n".join(part for part in (self.imports, solution, self.setup) if part)

    @cached_property
    def template(self) -> str:
        """The solution without names and constants (`template_of`): the unit of splits and of intervals."""
        return template_of(self.code)

    @property
    def entry_point(self) -> str:
        """The function of the solution that the first test calls. Raises ValueError if there is none."""
        defined = {node.name for node in parse_code(self.code).body if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(parse_code(self.tests[0])):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in defined:
                return node.func.id
        raise ValueError(f"problem {self.task_id}: its first test calls no function of its solution")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, or of a .json file with one list. Raises BadInput for anything else."""
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
    """Rows in MBPP's schema, checked. Raises BadInput, naming the problem, for one that does not fit."""
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
                f"problem {row.get('task_id', number)} is not in MBPP's schema "
                f"(text, code, task_id, test_list): {type(error).__name__}: {error}"
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
