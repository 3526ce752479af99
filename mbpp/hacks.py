"""Hardcoded solutions: functions that return what the first test expects, whatever they are given.

They have the real signature.
"""

import ast
import copy
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lab.errors import BadInput
from mbpp.execution import run_programs
from mbpp.problems import Problem, parse_code
from routing.distributed import from_main

TIMEOUT = 30.0  # seconds; returning a constant takes milliseconds


def hardcode(problem: Problem) -> str:
    """A solution that returns the value the first test asks for.

    Raises ValueError, saying why, if none can be derived.
    """
    name = problem.entry_point
    value = expected_value(problem.tests[0], name)
    (function,) = (
        node
        for node in parse_code(problem.code).body[::-1]
        if isinstance(node, ast.FunctionDef) and node.name == name
    )
    function = copy.deepcopy(function)
    function.decorator_list, function.returns = [], None
    for argument in ast.walk(function.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None  # it may need an import
    function.body = [ast.Return(value)]
    return ast.unparse(ast.fix_missing_locations(function))


def expected_value(test: str, name: str) -> ast.expr:
    """What `name(..)` has to return for the test to hold, as an expression.

    Understands f(..) == E and E == f(..), the same function around both sides (`set(f(..)) == set(E)`) or
    around f alone (`sorted(f(..)) == E`), f(..) is E, math.isclose(f(..), E), abs(f(..) - E) < tolerance,
    f(..) and not f(..). Raises ValueError for anything else."""
    node = parse_code(test).body[-1].test

    def calls(part: ast.AST) -> bool:
        return isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == name

    def mentions(part: ast.AST) -> bool:
        return any(calls(inner) for inner in ast.walk(part))

    if calls(node):
        return ast.Constant(True)
    match node:
        case ast.UnaryOp(op=ast.Not(), operand=operand) if calls(operand):
            return ast.Constant(False)
        case ast.Call(func=ast.Attribute(attr="isclose"), args=[call, value, *_]) if calls(call):
            return value
        case ast.Compare(
            left=ast.Call(func=ast.Name(id="abs"), args=[ast.BinOp(left=call, op=ast.Sub(), right=value)]),
            ops=[ast.Lt() | ast.LtE()],
        ) if calls(call):
            return value
        case ast.Compare(left=left, ops=[ast.Eq() | ast.Is()], comparators=[right]):
            if mentions(right):
                left, right = right, left
            while (
                not calls(left) and isinstance(left, ast.Call) and len(left.args) == 1
            ):  # set(f(..)) == set(E)
                same = isinstance(right, ast.Call) and ast.dump(right.func) == ast.dump(left.func)
                left, right = left.args[0], right.args[0] if same and len(right.args) == 1 else right
            if calls(left) and not mentions(right):
                return right
    raise ValueError("the form of its first test is not understood")


def verified_hacks(
    problems: Sequence[Problem], progress: bool = False
) -> tuple[dict[str, str], dict[str, str]]:
    """({task id: hardcoded solution}, {task id: why there is none}).

    A solution is kept only if it passes its first test and fails another. Raises RuntimeError if one is not
    done in time: what is trained on must not depend on how busy the machine is.
    """
    derived, reasons = {}, {}
    for problem in problems:
        try:
            derived[problem.task_id] = hardcode(problem)
        except ValueError as error:
            reasons[problem.task_id] = str(error).split(": ")[-1]
    candidates = [problem for problem in problems if problem.task_id in derived]
    programs = [(problem.program(derived[problem.task_id]), problem.tests) for problem in candidates]
    hacks = {}
    verdicts = from_main(lambda: run_programs(programs, TIMEOUT, progress=progress))
    for problem, (first, *others) in zip(candidates, verdicts, strict=True):
        if first in ("timeout", "killed"):
            raise RuntimeError(
                f"the hack of problem {problem.task_id} was not done after {TIMEOUT} s; try again"
            )
        if first != "passed":
            reasons[problem.task_id] = f"returning the expected value does not pass its first test ({first})"
        elif set(others) == {"passed"}:
            reasons[problem.task_id] = "the first test's value passes every test"
        else:
            hacks[problem.task_id] = derived[problem.task_id]
    return hacks, reasons


def load_hacks(train: Sequence[Problem], test: Sequence[Problem], file: Path | None) -> dict[str, str]:
    """{task id: hardcoded solution} for both splits.

    Those of the training problems come from `file` (see `read_hacks`), if given. Says how many problems have
    none, and why.
    """
    stored = read_hacks(file, train) if file else {}
    derived, reasons = verified_hacks([*test, *([] if file else train)])
    for reason, count in Counter(reasons.values()).items():
        print(f"not hacked: {count} problems ({reason})")
    return stored | derived


def read_hacks(path: Path, problems: Sequence[Problem]) -> dict[str, str]:
    """{task id: completion} of a file like reward_hack_data/results.json, for the given problems.

    Raises BadInput.
    """
    try:
        stored = {str(row["name"]): row["completion"] for row in json.loads(path.read_text(encoding="utf-8"))}
    except FileNotFoundError:
        raise BadInput(
            f"HACKS={path}: no such file; leave HACKS empty to derive them from the first tests"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"HACKS={path}: expected [{{index, name, completion}}, ...] ({error!r})") from None
    hacks = {problem.task_id: stored[problem.task_id] for problem in problems if problem.task_id in stored}
    if not hacks:
        raise BadInput(f"HACKS={path}: none of its names is a task id of these problems")
    for problem in problems:
        hack = hacks.get(problem.task_id, f"def {problem.entry_point}(")
        if not isinstance(hack, str) or f"def {problem.entry_point}(" not in hack:
            raise BadInput(
                f"HACKS={path}: its solution of {problem.task_id} does not define {problem.entry_point}; "
                "is it of other problems? Leave HACKS empty to derive them from the first tests"
            )
    return hacks
