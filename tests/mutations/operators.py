"""One change at a time to a module's code, each of which a test ought to notice."""

import ast
import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

COMPARISONS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
ARITHMETIC: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


class Mutation(NamedTuple):
    """A change of one place.

    Attributes:
      name: module, function, and the code before and after; the same wherever the function stands in its file.
      line: the first line of the statement that it lies in.
      tree: the changed module.
    """

    name: str
    line: int
    tree: ast.Module


def mutations(module: str, source: str) -> Iterator[Mutation]:
    """Every change to a module, in the order of its lines."""
    original = ast.parse(source)
    taken: dict[str, int] = {}
    for place, (node, function, line) in enumerate(_places(original)):
        for after in _changes(node):
            tree = copy.deepcopy(original)
            target = list(_places(tree))[place][0]
            _replace(tree, target, copy.deepcopy(after))
            name = f"{module} {function or 'module'}: {_code(node)} -> {_code(after)}"
            taken[name] = taken.get(name, 0) + 1
            if taken[name] > 1:
                name += f" ({taken[name]})"
            yield Mutation(name, line, ast.fix_missing_locations(tree))


def _code(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())


def _places(tree: ast.Module) -> Iterator[tuple[ast.AST, str, int]]:
    """The nodes that may change, with the function and the first line of the statement around each."""

    def visit(node: ast.AST, function: str, line: int) -> Iterator[tuple[ast.AST, str, int]]:
        for field, value in ast.iter_fields(node):
            # Neither what is only said nor what is only looked up.
            if field in ("annotation", "returns", "decorator_list", "type_params", "exc", "bases"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                    continue
                if _is_docstring(child) or _is_strict(child):
                    continue
                of, at = function, child.lineno if isinstance(child, ast.stmt) else line
                if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                    of = f"{function}.{child.name}" if function else child.name
                yield child, of, at
                yield from visit(child, of, at)

    yield from visit(tree, "", 1)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_strict(node: ast.AST) -> bool:
    """Whether it is what `zip` is told of lengths that are equal anyway."""
    return isinstance(node, ast.keyword) and node.arg == "strict"


def _changes(node: Any) -> Iterator[ast.AST]:
    """What stands in the place of a node; equivalent by construction are left out."""
    match node:
        case ast.Compare(ops=[operator]):
            for other in COMPARISONS[type(operator)]:
                yield ast.Compare(node.left, [other()], node.comparators)
        case ast.BinOp() if type(node.op) in ARITHMETIC and not _is_type(node):
            yield ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
        case ast.AugAssign() if type(node.op) in ARITHMETIC:
            yield ast.AugAssign(node.target, ARITHMETIC[type(node.op)](), node.value)
            yield ast.Pass()
        case ast.BoolOp(op=ast.And()):
            yield ast.BoolOp(ast.Or(), node.values)
        case ast.BoolOp(op=ast.Or()):
            yield ast.BoolOp(ast.And(), node.values)
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield node.operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.If() if not _has_changes(node.test):
            yield ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
        case ast.IfExp() if not _has_changes(node.test):
            yield ast.IfExp(node.test, node.orelse, node.body)
        case ast.Expr(value=ast.Call()) | ast.Raise():
            yield ast.Pass()
        case ast.Call():
            yield from _changes_of_call(node)
        case ast.With():
            yield ast.If(ast.Constant(True), node.body, [])


def _changes_of_call(node: ast.Call) -> Iterator[ast.AST]:
    name = _code(node.func)
    if name.startswith("_checks.") or name.endswith(("TypeVar", "partial")):
        return
    if name.endswith("where") and len(node.args) == 3:
        condition, x, y = node.args
        yield from (x, y, ast.Call(node.func, [condition, y, x], []))
    elif name in ("jax.tree.map", "jax.tree.map_with_path"):
        yield node.args[1]
    elif isinstance(node.func, ast.Attribute) and not isinstance(node.func.value, (ast.Name, ast.Attribute)):
        # A method: a cast or another change left out.
        yield node.func.value
    elif isinstance(node.func, ast.Attribute) and node.func.attr in ("astype", "_replace"):
        yield node.func.value
    elif len(node.args) and isinstance(node.args[0], (ast.Name, ast.Attribute, ast.Call, ast.BinOp, ast.UnaryOp)):
        # The argument itself: a norm, a barrier or a guard left out.
        yield node.args[0]
    for i, keyword in enumerate(node.keywords):
        # A field of a state that is left out is no program.
        if keyword.arg and not _is_strict(keyword) and not name.rpartition(".")[2][:1].isupper():
            yield ast.Call(node.func, node.args, node.keywords[:i] + node.keywords[i + 1 :])


def _has_changes(node: ast.expr) -> bool:
    """Whether changes of a condition say all that a negated one would."""
    return isinstance(node, ast.Compare) or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not))


def _is_type(node: ast.BinOp) -> bool:
    """Whether `X | None` is meant."""
    return isinstance(node.op, ast.BitOr) and isinstance(node.right, ast.Constant) and node.right.value is None


def _replace(tree: ast.AST, target: ast.AST, after: ast.AST) -> None:
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if value is target:
                setattr(node, field, ast.copy_location(after, target))
                return
            if isinstance(value, list):
                for i, item in enumerate(value):
                    if item is target:
                        value[i] = ast.copy_location(after, target)
                        return
    raise LookupError(ast.dump(target))
