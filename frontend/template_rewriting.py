"""Rewrites a parsed chat template so that what it does is reported to the meter of the rendering.

jinja has hooks for filters, calls, operators and outputs; loops, macros, blocks, comparisons, slices and `~` get
filters here that no template can spell. `template_environment.py` defines those filters and compiles the result.
"""

from typing import cast

import jinja2.nodes as nodes
from jinja2.visitor import NodeTransformer

COUNTED = "counted items"
"""Filter for what is iterated over; its argument is the work for each item."""
SPENT = "spent"
"""Filter that counts the work that its argument says."""
WEIGHED = "weighed"
"""Filter for what is read as a whole."""
JOINED = "joined texts"
"""Filter for the operands of `~`."""


class MeteredTemplate(NodeTransformer):
    """Has loops, macros, blocks, comparisons, slices and `~` report to the meter."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """A loop spends its nodes once for each item."""
        units = _num_nodes(node)
        self.generic_visit(node)
        node.iter = _filtered(cast("nodes.Expr", node.iter), COUNTED, nodes.Const(units))
        if node.recursive:  # `loop(items)` gives items that are not counted
            node.body.insert(0, _spending(units))
            if node.test is not None:
                node.test = nodes.And(_filtered(nodes.Const(True), SPENT, nodes.Const(units)), node.test)
        return node

    def visit_Macro(self, node: nodes.Macro | nodes.Block | nodes.CallBlock) -> nodes.Node:
        """A body spends its nodes whenever it runs."""
        units = _num_nodes(node)
        self.generic_visit(node)
        node.body.insert(0, _spending(units))
        return node

    visit_Block = visit_Macro
    visit_CallBlock = visit_Macro

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """A comparison with a constant reads little, but what is looked for in a container may be hashed."""
        self.generic_visit(node)
        is_membership = any(item.op in ("in", "notin") for item in node.ops)
        if not is_membership and sum(map(_is_constant, (node.expr, *(item.expr for item in node.ops)))) >= len(
            node.ops
        ):
            return node
        for item in node.ops:
            item.expr = _weighed(item.expr)
        node.expr = _weighed(node.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        """A slice copies; any other index may be hashed."""
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            return _filtered(node, WEIGHED)
        node.arg = _weighed(node.arg)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        """Keys of a map are hashed."""
        self.generic_visit(node)
        node.key = _weighed(node.key)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """`~` makes a new text of all its parts."""
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), JOINED)


def _filtered(node: nodes.Expr, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


def _weighed(node: nodes.Expr) -> nodes.Expr:
    return node if _is_constant(node) else _filtered(node, WEIGHED)


def _spending(units: int) -> nodes.Node:
    return nodes.ExprStmt(_filtered(nodes.Const(None), SPENT, nodes.Const(units)))


def _is_constant(node: nodes.Expr) -> bool:
    if isinstance(node, nodes.List | nodes.Tuple):
        return all(map(_is_constant, node.items))
    return isinstance(node, nodes.Const)


def _num_nodes(node: nodes.Node) -> int:
    """How much one run through a body may be, texts included."""
    return 1 + sum(1 + len(getattr(item, "data", "")) // 64 for item in node.find_all(nodes.Node))
