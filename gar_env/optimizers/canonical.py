"""One tree for all writings of a rule that are the same by signs and sides."""

from __future__ import annotations

from gar_env.optimizers.formula import Call, Leaf, Node, call, write
from gar_env.optimizers.functions import BINARY, UNARY


def canonical(node: Node) -> Node:
    """One tree for all that are the same function by signs, order of sides, and ``left``; values agree bit for bit.

    A minus is pulled outwards, two of them vanish, sides that commute are sorted, and ``left(x, y)`` is ``x``.
    """
    if isinstance(node, Leaf):
        return node
    inputs = tuple(canonical(one) for one in node.inputs)
    if node.name == "left":
        return inputs[0]
    if node.name in UNARY:
        return _unary(node.name, inputs[0], node.constant)
    return _binary(node.name, *inputs)


def _unary(name: str, x: Node, constant: float | None) -> Node:
    function = UNARY[name]
    if name == "neg":
        return _minus(x)
    if _is(x, "neg") and function.even:
        return Call(name, x.inputs, constant)  # pyright: ignore[reportAttributeAccessIssue]
    if _is(x, "neg") and function.odd:
        return _minus(_unary(name, x.inputs[0], constant))  # pyright: ignore[reportAttributeAccessIssue]
    if name == "sign" and _is(x, "sign"):
        return x
    return Call(name, (x,), constant)


def _minus(x: Node) -> Node:
    if _is(x, "neg"):
        return x.inputs[0]  # pyright: ignore[reportAttributeAccessIssue]
    return call("sub", *reversed(x.inputs)) if _is(x, "sub") else call("neg", x)  # pyright: ignore


def _binary(name: str, left: Node, right: Node) -> Node:
    minus = _is(left, "neg"), _is(right, "neg")
    a, b = (one.inputs[0] if own else one for one, own in zip((left, right), minus, strict=True))  # pyright: ignore
    if name in ("add", "sub"):
        if name == "sub":
            minus = minus[0], not minus[1]
        if minus[0] and minus[1]:
            return _minus(_sorted("add", a, b))
        if minus[0]:
            a, b, minus = b, a, (False, True)
        return call("sub", a, b) if minus[1] else _sorted("add", a, b)
    if name == "mul":
        found: Node = _sorted("mul", a, b)
        return _minus(found) if minus[0] != minus[1] else found
    if name == "div":
        found = call("div", a, right)
        return _minus(found) if minus[0] else found
    if name == "pow":
        return call("pow", a, right)
    return _sorted(name, left, right) if BINARY[name].commutes else call(name, left, right)


def _sorted(name: str, left: Node, right: Node) -> Call:
    return call(name, *sorted((left, right), key=write))


def _is(node: Node, name: str) -> bool:
    return isinstance(node, Call) and node.name == name
