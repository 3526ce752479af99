"""Judges a program's tests from outside: splits a test, and compares what came back with what it asks for.

The test `assert f(3) == 8` enters the sandbox as `f(3)` alone. The value comes back as plain data, read from
the object's builtin storage (`harness.encode`), and is compared with 8 here. So always-equal objects, patched
builtins, early exits and forged output do not pass; whoever knows the 8 could as well return it. Comparisons,
and/or/not, sums, abs, type, isinstance, math.isclose and what has literals and `_TRUSTED` names only are
worked out here, the rest inside. What a program can still fake is what the test leaves to it: a truth value
in `assert f(3)`, both sides of `f(3) == g(3)`, asserts inside a loop, equality of two objects of one class of
its own. It can also find its nonce in its pipe and word its own message, which gains it nothing that `return`
does not. An object not made of builtin types equals no literal; one nested over 64 deep or of about 100 kB is
an "error". The tests are trusted; the code is not."""

import ast
import builtins
import math
from dataclasses import dataclass
from types import CodeType
from typing import NamedTuple

_NAMES = "abs bool bytes complex dict float frozenset int isinstance len list max min range round set sorted str sum tuple"
_TRUSTED = {name: getattr(builtins, name) for name in [*_NAMES.split(), "type"]} | {"math": math}
_TRUSTED |= {f"math.{name}": None for name in dir(math) if not name.startswith("_")}
_PLAIN = (
    ast.Constant,
    ast.List,
    ast.Tuple,
    ast.Set,
    ast.Dict,
    ast.Call,
    ast.keyword,
    ast.expr_context,
    ast.cmpop,
)
_PLAIN += (ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.boolop, ast.unaryop, ast.operator)
_SPLIT = (
    ast.And,
    ast.Or,
    ast.Not,
    ast.USub,
    ast.Add,
    ast.Sub,
)  # operators on values from inside; * could explode


class Test(NamedTuple):
    steps: list[CodeType]  # run inside, in order: statements, expressions that only the program can compute
    checks: list[CodeType]  # evaluated here, in order, with the value of step n as _n: all must be true


@dataclass(frozen=True)
class _Stranger:
    """A value not made of builtin types: equal to those of its type that it was found equal to inside."""

    number: str
    truth: bool

    def __bool__(self) -> bool:
        return self.truth


class _Splitter(ast.NodeTransformer):
    """Cuts the parts that only the program can compute out of an asserted expression.

    Names of steps are left in their places.
    """

    def __init__(self, trusted: dict[str, object], steps: list[ast.AST]):
        self.trusted, self.steps = trusted, steps

    def is_pure(self, *nodes: ast.AST) -> bool:
        parts = [part for node in nodes for part in ast.walk(node)]
        return all(isinstance(part, _PLAIN) or ast.unparse(part) in self.trusted for part in parts)

    def visit(self, node: ast.AST) -> ast.AST:
        kept = not isinstance(node, ast.expr) or isinstance(node, ast.Compare) or self.is_pure(node)
        kept |= isinstance(getattr(node, "op", None), _SPLIT)
        if isinstance(node, ast.Call) and not any(isinstance(part, ast.Starred) for part in node.args):
            name = ast.unparse(node.func)
            kept |= name in self.trusted and name in ("abs", "type", "math.isclose")
            kept |= name in self.trusted and name == "isinstance" and self.is_pure(*node.args[1:])
        if kept:
            return self.generic_visit(node)
        self.steps.append(node)
        return ast.Name(f"_{len(self.steps) - 1}", ast.Load())


def parse(source: str) -> Test:
    """Split one test.

    Names that Python predefines mean just that, unless nothing else is left for the program.
    """
    for trusted in (_TRUSTED, {}):
        steps, checks, body = [], [], ast.parse(source).body
        for statement in body:
            if isinstance(statement, ast.Assert):
                checks.append(_Splitter(trusted, steps).visit(statement.test))
            else:
                checks.append(ast.parse(f"_{len(steps)} is None", mode="eval").body)  # it ran to its end
                steps.append(statement)
        if any(isinstance(step, ast.expr) for step in steps):
            break
    if not any(isinstance(statement, ast.Assert) for statement in body):
        raise SyntaxError("no assert statement")
    return Test([_compile(step) for step in steps], [_compile(check) for check in checks])


def _compile(node: ast.AST) -> CodeType:
    tree = ast.Expression(node) if isinstance(node, ast.expr) else ast.Module([node], [])
    return compile(
        ast.fix_missing_locations(tree), "<test>", "eval" if isinstance(node, ast.expr) else "exec"
    )


_ATOMS = {
    "constant": {"None": None, "True": True, "False": False}.__getitem__,
    "int": lambda text: int(text, 16),
    "float": float.fromhex,
    "complex": complex,
    "str": lambda text: bytes.fromhex(text).decode("utf-8", "surrogatepass"),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "stranger": lambda text: _Stranger(text, True),
    "falsy": lambda text: _Stranger(text, False),
}
_CONTAINERS = {"tuple": tuple, "list": list, "set": set, "frozenset": frozenset}
_CONTAINERS |= {"dict_keys": set, "dict_items": set}
_CONTAINERS["dict"] = lambda parts: dict(zip(parts[::2], parts[1::2], strict=True))


def _decode(text: str) -> object:
    """The value that `harness.encode` wrote. Safe on any text: no recursion, bounded depth."""
    stack = []  # of (value, depth)
    for token in text.split(","):
        name, _, content = token.partition(":")
        if name in _ATOMS:
            stack.append((_ATOMS[name](content), 0))
            continue
        parts = [stack.pop() for _ in range(int(content))][::-1]
        depth = 1 + max((depth for _, depth in parts), default=0)
        if depth > 66:  # the harness gives up before; much deeper, hashing would overflow the stack
            raise ValueError("too deep")
        stack.append((_CONTAINERS[name]([value for value, _ in parts]), depth))
    ((value, _),) = stack
    return value


def judge(test: Test, status: bytes, message: bytes) -> str:
    """The verdict on a test, from how its worker ended and the results of its steps.

    The first step loads the program.
    """
    if status != b"V":
        return {b"T": "timeout", b"K": "killed"}.get(status, "error")
    try:
        loaded, *results = message.decode("ascii").split(" ")
        if loaded != "constant:None" or len(results) > len(test.steps):
            return "error"
        values = {f"_{n}": _decode(text) for n, text in enumerate(results) if text[:1] != "!"}
        right = all(eval(check, {"__builtins__": {}, **_TRUSTED}, values) for check in test.checks)
        return "passed" if right else "failed"
    except NameError:  # the value of a step that raised
        return "failed" if results[-1:] == ["!a"] else "error"
    except Exception:  # not the harness's wording, or a comparison that Python refuses too, such as None < 3
        return "error"
