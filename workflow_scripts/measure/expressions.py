"""A small expression language for gates and claims: arithmetic, comparisons, and / or / not, and named functions.

    from expressions import evaluate; evaluate("rate('C4', 'source') >= 0.60", {"rate": rate})

An expression is parsed to a syntax tree of which only the node kinds below are walked, so it can reach nothing but the
functions, names and tables given to it. A number that is not there is None, and None spreads as "unknown" does in
three-valued logic (Kleene): `False and None` is False, `True and None` is None.
"""

import ast
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from run.program import InputError

Functions = Mapping[str, Callable[..., Any]]
Names = Mapping[str, Any]
LARGEST = 1e18
Operations = dict[type[ast.AST], Callable[[Any, Any], Any]]
ARITHMETIC: Operations = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
COMPARISONS: Operations = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda value, group: value in group,
    ast.NotIn: lambda value, group: value not in group,
}


def parse(text: str) -> ast.expr:
    """The syntax tree of one expression. Raises InputError with the column when it is not one."""
    try:
        return ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise InputError(
            f"expression `{text}`: column {error.offset}: {error.msg}; fix: correct the expression"
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"expression: cannot be read ({error}); fix: correct the expression") from None


def evaluate(text: str | ast.expr, functions: Functions, names: Names | None = None) -> Any:
    """The value of the expression, or None where a number it needs is missing.

    A function listed in `functions` gets its arguments evaluated, and is unknown where one of them is; one with the
    attribute `lazy` gets their syntax trees (to evaluate a condition row by row). Raises
    InputError for anything outside the language.
    """
    tree = parse(text) if isinstance(text, str) else text
    try:
        return walk(tree, functions, {} if names is None else names)
    except RecursionError:
        raise InputError("expression: too deep; fix: take it apart") from None


def walk(node: ast.expr, functions: Functions, names: Names) -> Any:
    """Evaluate one node."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return within(node, value)
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [walk(item, functions, names) for item in items]
        case ast.Name(id=name):
            if name not in names:
                raise refused(node, f"unknown name; known here: {', '.join(sorted(names)) or 'none'}; quote a word")
            return names[name]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            value = walk(operand, functions, names)
            return None if value is None else not value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = walk(operand, functions, names)
            return applied(node, operator.sub, 0, value)
        case ast.BoolOp(op=kind, values=parts):
            # Every part is evaluated, so that the numbers of all of them are on record.
            values = [walk(part, functions, names) for part in parts]
            decisive = isinstance(kind, ast.Or)
            if any(value is not None and bool(value) is decisive for value in values):
                return decisive
            return None if None in values else not decisive
        case ast.BinOp(left=left, op=kind, right=right) if type(kind) in ARITHMETIC:
            sides = [walk(side, functions, names) for side in (left, right)]
            if any(isinstance(side, str | list) for side in sides):
                raise refused(node, "only numbers can be computed with")
            return applied(node, ARITHMETIC[type(kind)], *sides)
        case ast.Compare(left=left, ops=kinds, comparators=others):
            values = [walk(part, functions, names) for part in (left, *others)]
            results = []
            for comparison, first, second in zip(kinds, values, values[1:], strict=False):
                if type(comparison) not in COMPARISONS:
                    raise refused(node, "this comparison is not allowed")
                results.append(applied(node, COMPARISONS[type(comparison)], first, second))
            return False if False in results else None if None in results else True
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in functions:
            function = functions[name]
            check_arguments(node, name, function, arguments)
            lazy = getattr(function, "lazy", False)
            values = list(arguments) if lazy else [walk(argument, functions, names) for argument in arguments]
            if None in values:
                return None
            try:
                return within(node, function(*values))
            except (TypeError, ValueError, OverflowError) as error:
                raise refused(node, str(error)) from None
        case ast.Call():
            raise refused(node, f"unknown function; known: {', '.join(sorted(functions))}")
    raise refused(node, "this is not part of the expression language")


def check_arguments(node: ast.expr, name: str, function: Callable[..., Any], given: Sequence[ast.expr]) -> None:
    """Raise InputError with what the function takes unless so many arguments can be given to it."""
    signature = inspect.signature(function)
    try:
        signature.bind(*given)
    except TypeError:
        needed = [each.name for each in signature.parameters.values() if each.default is each.empty]
        more = [each for each in signature.parameters if each not in needed]
        wanted = ", ".join(needed) + (f" and, if wanted, {', '.join(more)}" if more else "")
        raise refused(node, f"{name} takes {wanted}; {len(given)} given") from None


def applied(node: ast.expr, operation: Callable[[Any, Any], Any], first: Any, second: Any) -> Any:
    """operation(first, second), None where either is None or the quotient does not exist."""
    if first is None or second is None:
        return None
    try:
        value = operation(first, second)
    except ZeroDivisionError:
        return None
    except (TypeError, OverflowError):
        raise refused(node, f"{first!r} and {second!r} cannot be combined") from None
    return within(node, value)


def within(node: ast.expr, value: Any) -> Any:
    """The value, if it is no number beyond LARGEST: whole numbers of any length would take any time."""
    if isinstance(value, int | float) and not -LARGEST <= value <= LARGEST:
        raise refused(node, f"a number beyond {LARGEST:.0e}")
    return value


def refused(node: ast.expr, why: str) -> InputError:
    """The error for a node that cannot be evaluated."""
    try:
        said = ast.unparse(node)
    except ValueError:  # a number of 5,000 digits
        said = "..."
    return InputError(f"expression `{said[:200]}{'...' * (len(said) > 200)}`: {why}; fix: correct the expression")
