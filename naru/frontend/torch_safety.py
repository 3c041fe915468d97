"""What PyTorch would run while it loads a program, looked for before it does.

A `.pt2` file is JSON, and PyTorch evaluates some of its texts: sizes (`expr_str`) and guards are
Python, targets name functions, structures name modules that are imported, and names of values are
written into source code. Each text has one of these places, and what does not look as PyTorch
writes it is refused. A TorchScript file is code: what does more than compute is refused.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from typing import Any, cast

from naru.errors import ModelError

# Members of a .pt2 file that run code when it is loaded: pickled objects, and compiled libraries.
# PyTorch finds members whatever the case of their names.
RUNS = ("custom_obj_", "opaque_obj_", "aotinductor/")
OLD = "serialized_exported_program.json"  # of before PyTorch 2.8

NAME = re.compile(r"[\w.+\- ]*")
WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)
NUMBER = re.compile(r"[-+]?(?:[\d.]+(?:e[-+]?\d+)?|inf|nan|oo)", re.ASCII)
# Texts that are kept, or written with quotes, and never evaluated.
FREE = frozenset(
    ("as_string", "as_strings", "torch_version", "stack_trace", "nn_module_stack", "torch_fn",
     "source_fn_stack", "from_node", "custom")
)  # fmt: skip

TARGET = re.compile(
    r"torch\.ops\.(?:aten|prims|prim|quantized|quantized_decomposed|torchvision)\.(\w+)(?:\.\w+)?"
    r"|torch\.ops\.higher_order\.(?:cond|while_loop|scan|associative_scan|map_impl"
    r"|wrap_with_set_grad_enabled|wrap_with_autocast|invoke_subgraph|auto_functionalized(?:_v2)?)"
    r"|_operator\.(?:add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_"
    r"|xor|not_|inv|invert|lshift|rshift|getitem)"
    r"|math\.[a-z]\w*|torch\.sym_\w+|torch\._sym_\w+",
    re.ASCII,
)
OPERATORS = re.compile(r"__i?(?:and|or|xor|lshift|rshift)__")  # that aten calls so
FILES = ("from_file", "save")  # operators that read and write files

# Functions of sizes: those of sympy, by the names of its classes, and those of PyTorch.
FUNCTIONS = frozenset(
    (
        "Add", "Mul", "Pow", "Max", "Min", "Abs", "And", "Or", "Not", "Xor", "Eq", "Ne", "Lt", "Le",
        "Gt", "Ge", "Equality", "Unequality", "GreaterThan", "LessThan", "StrictGreaterThan",
        "StrictLessThan", "Piecewise", "ExprCondPair", "floor", "ceiling", "sqrt", "exp", "log",
        "sin", "cos", "tan", "tanh", "sinh", "cosh", "asin", "acos", "atan", "sign", "Integer",
        "Float", "Rational", "Symbol",
        "FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv", "CeilToInt",
        "FloorToInt", "CeilDiv", "IntTrueDiv", "FloatTrueDiv", "LShift", "RShift",
        "IsNonOverlappingAndDenseIndicator", "TruncToFloat", "TruncToInt", "RoundToInt",
        "RoundDecimal", "ToFloat", "FloatPow", "PowByNatural", "Identity", "BitwiseFn_bitwise_and",
        "BitwiseFn_bitwise_or", "BitwiseFn_bitwise_xor",
    )
)  # fmt: skip
OPAQUE = re.compile(r"OpaqueUnaryFn_\w+", re.ASCII)
TEXTS: dict[str, re.Pattern[str]] = {"Symbol": WORD, "Float": NUMBER, "Integer": NUMBER}
GUARD_CALLS = frozenset(("max", "min", "abs", "int", "float", "bool", "round",
                         "IsNonOverlappingAndDenseIndicator",
                         "cast_symbool_to_symint_guardless"))  # fmt: skip
SIZES = frozenset(("size", "stride", "storage_offset", "item"))  # methods that guards ask
ARITHMETIC = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.operator,
    ast.unaryop, ast.boolop, ast.cmpop, ast.Load,
)  # fmt: skip
FACTORIES = ("list", "dict", "int", "float", "set", "tuple", "str", "bool")


def program_problem(text: bytes) -> str | None:
    """What PyTorch would run of a JSON member of a .pt2 file; None where that is nothing."""
    try:
        return _walk(json.loads(text), "")
    except (ValueError, RecursionError) as error:
        return f"JSON that cannot be read ({type(error).__name__})"


def _walk(value: object, key: str) -> str | None:
    if isinstance(value, dict):
        items = cast("dict[str, object]", value)
        bad = next((k for k in items if not NAME.fullmatch(k)), None)
        if bad is not None:
            return _told("a name", bad)
        return next((p for k, v in items.items() if (p := _walk(v, k))), None)
    if isinstance(value, list):
        return next((p for v in cast("list[object]", value) if (p := _walk(v, key))), None)
    if not isinstance(value, str) or key in FREE:
        return None
    what, fits = _PLACES.get(key, ("a name", _is_name))
    return None if fits(value) else _told(what, value)


def _told(what: str, text: str) -> str:
    return f"{what} that is none, {text[:80]!r},"


def _is_name(text: str) -> bool:
    return NAME.fullmatch(text) is not None


def _is_path(text: str) -> bool:
    return _is_name(text.replace("/", ".")) and not any(r in text.lower() for r in RUNS)


def _is_target(text: str) -> bool:
    match = TARGET.fullmatch(text)
    if match is None:
        return False
    name = match[1] or ""
    return name not in FILES and (not name.startswith("__") or bool(OPERATORS.fullmatch(name)))


def _parsed(text: str) -> list[ast.AST] | None:
    """All nodes of an expression of Python; None of what is none."""
    if not text.isascii():  # other letters could spell names anew
        return None
    try:
        return list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_size(text: str) -> bool:
    """Numbers, names, arithmetic, and functions of FUNCTIONS. A text would be evaluated as well, so
    it is the name of a symbol, or a number."""
    nodes = _parsed(text)
    if nodes is None:
        return False
    known: set[int] = set()  # texts and keywords that calls have where they may
    for node in nodes:  # calls come before what is in them
        if isinstance(node, ast.Call):
            if not _is_function(node):
                return False
            called = cast(ast.Name, node.func).id
            for a in node.args[:1]:
                if isinstance(a, ast.Constant) and isinstance(a.value, str):
                    if called not in TEXTS or not TEXTS[called].fullmatch(a.value):
                        return False
                    known.add(id(a))
            known |= {id(k) for k in node.keywords}
        elif isinstance(node, ast.Constant):
            if id(node) not in known and not isinstance(node.value, int | float):
                return False
        elif isinstance(node, ast.keyword):
            if id(node) not in known:
                return False
        elif isinstance(node, ast.Name):
            if node.id.startswith("_"):
                return False
        elif not isinstance(node, (*ARITHMETIC, ast.Tuple)):
            return False
    return True


def _is_function(call: ast.Call) -> bool:
    plain = all(
        k.arg is not None and isinstance(k.value, ast.Constant) and isinstance(k.value.value, int)
        for k in call.keywords
    )
    return plain and isinstance(call.func, ast.Name) and (
        call.func.id in FUNCTIONS or OPAQUE.fullmatch(call.func.id) is not None
    )  # fmt: skip


def _is_guard(text: str) -> bool:
    """Comparisons of sizes of inputs (L['x'].size()[0]) and numbers."""
    nodes = _parsed(text)
    return nodes is not None and all(_in_guard(n) for n in nodes)


def _in_guard(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        if node.keywords:
            return False
        f = node.func
        if isinstance(f, ast.Name):
            return f.id in GUARD_CALLS
        if not isinstance(f, ast.Attribute):
            return False
        if isinstance(f.value, ast.Name) and f.value.id in ("math", "torch"):
            return f.value.id == "math" or f.attr.startswith(("sym_", "_sym_"))
        return f.attr in SIZES and not node.args
    if isinstance(node, ast.Attribute):
        return not node.attr.startswith("_") or node.attr.startswith("_sym_")
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, str) or _is_name(node.value)
    if isinstance(node, ast.Name):
        return node.id in ("L", "math", "torch", "inf") or node.id in GUARD_CALLS
    return isinstance(node, (*ARITHMETIC, ast.Subscript))


def _is_structure(text: str) -> bool:
    """A pytree's structure. Modules are imported for the types of defaultdicts and for enums."""
    try:
        return _plain_structure(json.loads(text))
    except (ValueError, RecursionError):
        return not text


def _plain_structure(value: object) -> bool:
    if isinstance(value, list):
        return all(_plain_structure(v) for v in cast("list[object]", value))
    if isinstance(value, str):  # the keys of a dict are JSON within JSON
        try:
            inner = json.loads(value)
        except ValueError:
            return True
        return isinstance(inner, str) or _plain_structure(inner)
    if not isinstance(value, dict):
        return True
    known = cast("dict[str, Any]", value)
    if "__enum__" in known:
        return False
    if "default_factory_module" in known or "default_factory_name" in known:
        if known.get("default_factory_module") != "builtins":
            return False
        if known.get("default_factory_name") not in FACTORIES:
            return False
    return all(_plain_structure(v) for v in known.values())


_PLACES: dict[str, tuple[str, Callable[[str], bool]]] = {
    "expr_str": ("a size", _is_size),
    "guards_code": ("a guard", _is_guard),
    "target": ("an operator", _is_target),
    "as_operator": ("an operator", _is_target),
    "in_spec": ("a structure", _is_structure),
    "out_spec": ("a structure", _is_structure),
    "path_name": ("a place", _is_path),
}


# --- TorchScript ----------------------------------------------------------------------------------

_SPACE = r"(?:\s|\\|#[^\n]*\n)*"
_COMPUTES = "aten|prims|prim|quantized|torchvision"
# Names, wherever they stand: aliases of modules can be made, and getattr takes texts.
_SCRIPT = (
    re.compile(r"\b(?:save|from_file)\b", re.ASCII),
    re.compile(rf"(?<![\w.])ops\b(?!{_SPACE}\.{_SPACE}(?:{_COMPUTES})\b).{{0,40}}", re.ASCII),
    re.compile(r"(?<![\w.])getattr\b(?!\([^()\"'#\\]*,\s*[\"'][\w.\- ]*[\"']\)).{0,40}", re.ASCII),
    re.compile(r"torch\.classes\.(?!quantized\b)\w*", re.ASCII),
)


def script_problem(code: str) -> str | None:
    """What code of TorchScript asks for that is more than computing; None where that is nothing."""
    found = next((m for p in _SCRIPT if (m := p.search(code))), None)
    return None if found is None else found[0]


def refused(what: str, how: str, where: str) -> ModelError:
    """Of a file that would run something. `how`: who loads it, and what to pass then."""
    return ModelError(what, where=where, hint=f"{how}, if you know who wrote it")
