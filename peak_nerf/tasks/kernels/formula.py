"""Kernels given on the command line as a formula in c, such as "exp(c - 1)"."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from peak_nerf.errors import PeakError

# Analytic ones only: the series of K^-1 o K* needs K* at complex c. So no abs, no floor.
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    name: getattr(torch, name)
    for name in ("exp", "log", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan")
}
CONSTANTS = {"pi": math.pi, "e": math.e}
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
MAX_LENGTH = 500


def parse_kernel(text: str, option: str = "--target") -> Callable[[Tensor], Tensor]:
    """The function of c that the formula stands for, on real or complex tensors; nothing of it is run as Python.

    Numbers, c, pi, e, + - * / ** (or ^), brackets and `FUNCTIONS`.

    Raises: PeakError on anything else, naming it.
    """
    problem = f"{option} {text!r}"
    help_text = f"write it in c with numbers, pi, e, + - * / **, and {', '.join(FUNCTIONS)}"
    if len(text) > MAX_LENGTH:
        raise PeakError(f"{option}: a formula of {len(text)} characters, more than {MAX_LENGTH}; shorten it")
    try:
        tree = ast.parse(text.replace("^", "**").strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise PeakError(f"{problem}: is not a formula; {help_text}") from error

    def check(node: ast.AST) -> None:
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return
        if isinstance(node, ast.Name):
            if node.id != "c" and node.id not in CONSTANTS:
                raise PeakError(f"{problem}: {node.id!r} is unknown; {help_text}")
            return
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            return check(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            check(node.left)
            return check(node.right)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 1 and not node.keywords:
            if node.func.id not in FUNCTIONS:
                raise PeakError(f"{problem}: the function {node.func.id!r} is unknown; {help_text}")
            return check(node.args[0])
        raise PeakError(f"{problem}: {ast.unparse(node)!r} is not allowed; {help_text}")

    def value(node: ast.AST, c: Tensor) -> Any:
        if isinstance(node, ast.Constant):
            return c.new_full((), float(cast(float, node.value)))
        if isinstance(node, ast.Name):
            return c if node.id == "c" else c.new_full((), CONSTANTS[node.id])
        if isinstance(node, ast.UnaryOp):
            operand = value(node.operand, c)
            return -operand if isinstance(node.op, ast.USub) else operand
        if isinstance(node, ast.BinOp):
            return _BINARY[type(node.op)](value(node.left, c), value(node.right, c))
        assert isinstance(node, ast.Call)  # check has let nothing else through
        assert isinstance(node.func, ast.Name)
        return FUNCTIONS[node.func.id](value(node.args[0], c))

    check(tree)
    return lambda c: value(tree, c) + torch.zeros_like(c)
