"""The text of every form of a program: Python syntax, read by `ast`.

Reading what was printed gives the same program, so that a dump can be edited and fed back.
An error shows the user's line with a caret. Expressions, which all forms share: text_expr.py;
the tensor graph: text_graph.py; a TensorFunction: text_tensor.py; loop IR: text_loop.py.
"""

from __future__ import annotations

from naru.ir.text_expr import print_expr
from naru.ir.text_graph import graph_constants, print_graph, read_graph
from naru.ir.text_loop import print_func, print_module, read_func, read_module
from naru.ir.text_tensor import print_tensor_function, read_tensor_function

__all__ = [
    "graph_constants",
    "print_expr",
    "print_func",
    "print_graph",
    "print_module",
    "print_tensor_function",
    "read_func",
    "read_graph",
    "read_module",
    "read_tensor_function",
]
