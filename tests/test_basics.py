"""The easy problems: correct, unambiguous, and with no solution template in two splits."""

import ast
import itertools
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from routing.embedded.make_basics import HELD_OUT, MIN_USES, PER_TEMPLATE, SPLITS, make_basics, make_problems
from routing.syntax import template_of

EMBEDDED = Path(__file__).parent.parent / "routing" / "embedded"
KEYS = ["task_id", "text", "code", "test_list", "test_setup_code", "challenge_test_list"]


def read(split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (EMBEDDED / f"basics_{split}.jsonl").read_text().splitlines()]


FILES = {split: read(split) for split in SPLITS}
TRAIN = FILES["train"]
ROWS = [row for split in SPLITS for row in FILES[split]]


def name_of(row: dict[str, Any]) -> str:
    return ast.parse(row["code"]).body[0].name


def function_of(row: dict[str, Any]) -> Any:
    namespace: dict[str, Any] = {}
    exec(row["code"], namespace)
    return namespace[name_of(row)]


def read_assertion(test: str) -> tuple[str, list[Any], Any]:
    """The function's name, its arguments and the expected value. Anything but literals is an error."""
    (statement,) = ast.parse(test).body
    call, (expected,) = statement.test.left, statement.test.comparators
    assert isinstance(statement, ast.Assert) and isinstance(statement.test.ops[0], ast.Eq)
    return call.func.id, [ast.literal_eval(argument) for argument in call.args], ast.literal_eval(expected)


def types_of(value: Any) -> str:
    inner = {types_of(item) for item in value} if isinstance(value, list | tuple | dict) else ()
    return f"{type(value).__name__} {sorted(inner)}"


def outcome(function: Any, arguments: list[Any]) -> tuple[str, Any]:
    try:
        return "value", function(*arguments)
    except Exception as error:
        return "error", type(error)


@pytest.mark.slow
def test_the_files_are_what_the_generator_makes() -> None:
    for split, rows in make_basics().items():
        written = (EMBEDDED / f"basics_{split}.jsonl").read_bytes()
        assert written == "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_sizes_and_schema() -> None:
    assert len(TRAIN) >= 400 and all(len(FILES[split]) >= 100 for split in HELD_OUT)
    assert [row["task_id"] for row in ROWS] == list(range(1, len(ROWS) + 1))
    for row in ROWS:
        assert list(row) == KEYS
        assert row["test_setup_code"] == "" and row["challenge_test_list"] == []


def test_texts_and_names_are_unique() -> None:
    for values in ([row["text"] for row in ROWS], [name_of(row) for row in ROWS]):
        assert [value for value, count in Counter(values).items() if count > 1] == []


def test_texts_are_one_sentence_that_does_not_name_the_function() -> None:
    for row in ROWS:
        assert re.fullmatch(r"Write a (python )?function to [^.$]*\.", row["text"])
        assert name_of(row) not in row["text"] and "  " not in row["text"]


def test_solutions_are_one_short_function() -> None:
    for row in ROWS:
        (function,) = ast.parse(row["code"]).body
        first, *body = row["code"].split("\n")
        assert isinstance(function, ast.FunctionDef) and first.startswith("def ")
        assert 1 <= len(body) <= 4 and all(re.match(r"(    )+\S", line) for line in body)
        assert not re.search(r"[\r\t#]|import", row["code"].replace('"#"', ""))
        called = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
        assert function.name not in called  # no recursion


def test_solutions_pass_their_tests() -> None:
    for row in ROWS:
        namespace: dict[str, Any] = {}
        exec(row["code"], namespace)
        for test in row["test_list"]:
            exec(test, namespace)  # an assert statement, which raises if it does not hold


def test_assertions_are_short_literal_and_different() -> None:
    for row in ROWS:
        names, inputs, values = zip(*map(read_assertion, row["test_list"]), strict=True)
        assert len(row["test_list"]) >= 4 and set(names) == {name_of(row)}
        assert len(row["test_list"][0]) < 80 and max(map(len, row["test_list"])) < 100
        for value in values:
            assert not isinstance(value, bool) and len(repr(value)) < 40
            assert ast.literal_eval(repr(value)) == value
        for pair in (inputs, values):  # so a solution hardcoded to one test fails every other
            assert all(a != b for a, b in itertools.combinations(pair, 2))


def test_first_expected_value_is_rarely_visible() -> None:
    """Hardcoding is told from solving by the value it returns.

    Only where an element is chosen must the value be there.
    """
    visible = []
    for row in ROWS:
        name, inputs, value = read_assertion(row["test_list"][0])
        bare = re.escape(repr(value).strip("'"))
        whole = bare if isinstance(value, str) else rf"(?<!\w){bare}(?!\w)"
        assert not re.search(rf"return {re.escape(repr(value))}$", row["code"])
        if re.search(whole, repr(inputs)):
            visible.append(name)
    assert len(visible) < 0.1 * len(ROWS)
    assert all(
        re.match("largest|smallest|larger|smaller|first|last|drop|top|least", name) for name in visible
    )


@pytest.fixture(scope="module")
def groups() -> list[list[tuple[dict[str, Any], list[tuple[str, Any]]]]]:
    """Problems by the types of their arguments.

    Each has its outcomes on two inputs of every problem of the group.
    """
    members, inputs = defaultdict(list), defaultdict(list)
    for row in ROWS:
        arguments = [read_assertion(test)[1] for test in row["test_list"]]
        types = " ".join(map(types_of, arguments[0]))
        members[types].append(row)
        inputs[types] += arguments[:2]
    return [
        [(row, [outcome(function_of(row), arguments) for arguments in inputs[types]]) for row in rows]
        for types, rows in members.items()
    ]


def test_no_function_occurs_twice_under_other_names() -> None:
    counts = Counter(template_of(row["code"], keep_constants=True) for row in ROWS)
    assert max(counts.values()) == 1


def test_no_template_stands_in_two_splits() -> None:
    counts = {split: Counter(template_of(row["code"]) for row in rows) for split, rows in FILES.items()}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not counts[one].keys() & counts[other].keys()
    for split in HELD_OUT:
        assert len(counts[split]) >= 80
        assert max(counts[split].values()) <= PER_TEMPLATE


@pytest.mark.slow
def test_no_two_functions_behave_alike(groups: list[Any]) -> None:
    """Within a split or across.

    Inputs for which one of the two has no answer do not count as a difference.
    """
    for group in groups:
        for (one, first), (other, second) in itertools.combinations(group, 2):
            pairs = [(a, b) for a, b in zip(first, second, strict=True) if "error" not in (a[0], b[0])]
            assert any(a != b for a, b in pairs), (one["code"], other["code"])


@pytest.mark.slow
def test_no_training_solution_passes_a_held_out_problem(groups: list[Any]) -> None:
    trained = {row["task_id"] for row in TRAIN}
    for group in groups:
        for row, _ in group:
            for other, _ in group:
                if row["task_id"] not in trained and other["task_id"] in trained:
                    tests = map(read_assertion, row["test_list"])
                    passed = [
                        outcome(function_of(other), inputs) == ("value", value) for _, inputs, value in tests
                    ]
                    assert sum(passed) <= 2, (row["code"], other["code"])


def test_every_part_of_a_held_out_problem_is_trained_on() -> None:
    (train, *held_out), _ = make_problems()
    for problems, rows in zip((train, *held_out), FILES.values(), strict=True):
        assert {problem.text for problem in problems} == {row["text"] for row in rows}
    uses = Counter(part for problem in train for part in problem.parts)
    for problem in (problem for split in held_out for problem in split):
        assert all(uses[part] >= MIN_USES >= 3 for part in problem.parts), problem.name
