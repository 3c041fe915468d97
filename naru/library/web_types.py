"""TypeScript's declarations of a WebAssembly package, from what the model takes and gives."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

# What JavaScript has for a dtype (TYPES in web/values.js), and what inputs may be besides (ALSO).
ARRAYS = {
    "float32": "Float32Array", "float64": "Float64Array", "float16": "Uint16Array",
    "bfloat16": "Uint16Array", "int8": "Int8Array", "int16": "Int16Array", "int32": "Int32Array",
    "int64": "BigInt64Array", "uint8": "Uint8Array", "uint16": "Uint16Array",
    "uint32": "Uint32Array", "uint64": "BigUint64Array", "bool": "Uint8Array",
    "int4": "Int8Array", "int2": "Int8Array",
}  # fmt: skip
_NARROW = ("Int8Array", "Uint8Array", "Int16Array", "Uint16Array", "Int32Array", "Uint32Array")
ALSO = {
    "int64": _NARROW,
    "uint64": ("Uint8Array", "Uint16Array", "Uint32Array"),
    "uint8": ("Uint8ClampedArray",),
    "bool": ("Int8Array",),
    "float16": ("Float32Array",),
    "bfloat16": ("Float32Array",),
}
_ELEMENTS = {"int64": "number | bigint", "uint64": "number | bigint", "bool": "boolean | number"}


def declarations(source: str, info: Mapping[str, Any]) -> str:
    """`source`, the part that all models share, and what is this model's own."""
    blocks = [source.rstrip()]
    inputs, outputs = info["inputs"], info["outputs"]
    blocks.append(_interface("Inputs", "What `run` takes.", inputs, _input))
    blocks.append(_interface("InputViews", "What `input` gives.", inputs, _view, optional=False))
    blocks.append(_interface("Outputs", "What `run` gives.", outputs, _output, optional=False))
    labels = next((t["labels"] for t in outputs if t.get("labels")), None)
    literal = _literal({**info, "labels": labels} if labels else info)
    blocks.append(f"/** What the model is. */\nexport declare const info: {literal};")
    return "\n\n".join(blocks) + "\n"


def _interface(
    name: str, about: str, tensors: Sequence[Mapping[str, Any]], kind: Any, *, optional: bool = True
) -> str:
    lines = [f"/** {about} */", f"export interface {name} {{"]
    for t in tensors:
        shape = ", ".join(map(str, t["shape"])).replace("*/", "* /")  # which ends the comment
        mark = "?" if optional and t.get("optional") else ""
        lines.append(f"  /** {t['dtype']}[{shape}] */")
        lines.append(f"  {json.dumps(t['name'])}{mark}: {kind(t)};")
    return "\n".join([*lines, "}"])


def _array(dtype: str) -> str:
    return ARRAYS.get(dtype, "Uint8Array")


def _input(t: Mapping[str, Any]) -> str:
    arrays = " | ".join([_array(t["dtype"]), *ALSO.get(t["dtype"], ())])
    return f"Value<{arrays}, {_ELEMENTS.get(t['dtype'], 'number')}, {_dims(t)}>"


def _view(t: Mapping[str, Any]) -> str:
    return _array(t["dtype"])


def _output(t: Mapping[str, Any]) -> str:
    return f"Tensor<{json.dumps(t['dtype'])}, {_array(t['dtype'])}, {_dims(t)}>"


def _dims(t: Mapping[str, Any]) -> str:
    """A tuple of sizes, those that are known as they are."""
    sizes = ", ".join(str(d) if isinstance(d, int) else "number" for d in t["shape"])
    return f"readonly [{sizes}]"


def _literal(value: object) -> str:
    """The most exact type of a JSON value."""
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, object]", value).items()
        items = "; ".join(f"readonly {json.dumps(k)}: {_literal(v)}" for k, v in pairs)
        return f"{{ {items} }}"
    if isinstance(value, list | tuple):
        return f"readonly [{', '.join(map(_literal, cast('Sequence[object]', value)))}]"
    return json.dumps(value, ensure_ascii=False)
