"""Syntax trees of solutions: what remains of one when its names and constants are taken out."""

import ast
import warnings


def parse_code(code: str) -> ast.Module:
    """`ast.parse` without Python's warnings about what others wrote (an invalid escape in a string, say)."""
    with warnings.catch_warnings(action="ignore"):
        return ast.parse(code)


def template_of(code: str, keep_constants: bool = False) -> str:
    """The syntax tree as a string, with every name that the code binds numbered and every constant taken out.

    So `x % 2 == 0` and `n % 3 == 1` have one template, `x + y` and `x + x` two. Builtins, modules, methods
    and operators stay; annotations go. A negative number is a constant, too. Raises as `ast.parse`.
    """
    tree = parse_code(code)
    numbers = {name: f"v{number}" for number, name in enumerate(_bound(tree))}
    return ast.dump(_Bare(numbers, keep_constants).visit(tree))


def _bound(tree: ast.Module) -> dict[str, None]:
    """The names of functions, classes, arguments and variables, each once, in order."""
    names: dict[str, None] = {}
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                names[name] = None
            case ast.Name(id=name, ctx=ast.Store()) | ast.ExceptHandler(name=str(name)):
                names[name] = None
    return names


class _Bare(ast.NodeTransformer):
    def __init__(self, numbers: dict[str, str], keep_constants: bool):
        self.numbers, self.keep_constants = numbers, keep_constants

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for field in ("name", "arg", "id"):
            name = getattr(node, field, None)
            # A keyword in a call (`key=len`) belongs to the function that is called.
            if isinstance(name, str) and not isinstance(node, ast.keyword | ast.alias):
                setattr(node, field, self.numbers.get(name, name))
        for field in ("annotation", "returns"):
            if hasattr(node, field) and not isinstance(node, ast.AnnAssign):
                setattr(node, field, None)
        if isinstance(node, ast.Global | ast.Nonlocal):
            node.names = [self.numbers.get(name, name) for name in node.names]
        return super().generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return node if self.keep_constants else ast.Constant(None)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            return node if self.keep_constants else ast.Constant(None)
        return self.generic_visit(node)
