"""The header of a model's library, in C with a C++ class, and its examples."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from naru.library.signature import Signature, Tensor, identifier
from naru.version import VERSION

_HERE = Path(__file__).parent / "c"

# dtypes by numpy's names: member of naru_dtype, C's type of an element.
DTYPES = {
    "bool": ("BOOL", "uint8_t"),
    "int8": ("INT8", "int8_t"),
    "int16": ("INT16", "int16_t"),
    "int32": ("INT32", "int32_t"),
    "int64": ("INT64", "int64_t"),
    "uint8": ("UINT8", "uint8_t"),
    "uint16": ("UINT16", "uint16_t"),
    "uint32": ("UINT32", "uint32_t"),
    "uint64": ("UINT64", "uint64_t"),
    "float16": ("FLOAT16", "uint16_t"),
    "bfloat16": ("BFLOAT16", "uint16_t"),
    "float32": ("FLOAT32", "float"),
    "float64": ("FLOAT64", "double"),
}


def dtype_member(dtype: str) -> str:
    """The member of naru_dtype."""
    return f"NARU_DTYPE_{DTYPES.get(dtype, ('OTHER', ''))[0]}"


def element_type(dtype: str) -> str:
    """C's type of an element; of what C does not know, unsigned integers of the same size."""
    return DTYPES.get(dtype, ("", "uint8_t"))[1]


def quote(text: str) -> str:
    """A C string literal."""
    out: list[str] = []
    for byte in text.encode():
        char = chr(byte)
        if char in '"\\':
            out.append("\\" + char)
        elif 32 <= byte < 127 and char != "?":  # "??" could begin a trigraph
            out.append(char)
        else:
            out.append(f"\\{byte:03o}")
    return '"' + "".join(out) + '"'


def _comment(text: str) -> str:
    """A text inside a comment, which it must neither end nor reorder; nor may it begin another."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return shown.replace("\\", "/").replace("*/", "* /").replace("/*", "/ *")


_SUFFIXES = ("", "_ELEMENTS", "_BYTES", "_CLASSES")  # of the macros of a tensor


def unique_names(names: Sequence[str]) -> list[str]:
    """An identifier for each name, so different that the macros made of them differ too."""
    found: list[str] = []
    taken: set[str] = set()
    for k, name in enumerate(names):
        one = identifier(name)
        while not taken.isdisjoint(one.upper() + s for s in _SUFFIXES):
            one = f"{one}_{k}"
        taken.update(one.upper() + s for s in _SUFFIXES)
        found.append(one)
    return found


def _fill(template: str, **values: str) -> str:
    """In one pass, since a name in a value may look like a key."""
    return re.sub(f"@({'|'.join(values)})@", lambda m: values[m[1]], template)


def _constants(s: Signature, prefix: str, memory: int | None) -> str:
    upper = prefix.upper()
    lines = [
        f"#define {upper}_INPUTS {len(s.inputs)}",
        f"#define {upper}_OUTPUTS {len(s.outputs)}",
        f"#define {upper}_SYMBOLS {len(s.symbols)}",
    ]
    if memory is not None:
        lines.append(f"#define {upper}_MEMORY {memory} /* the most that memory() says */")
    symbols = unique_names([v.name for v in s.symbols])
    for k, (symbol, name) in enumerate(zip(s.symbols, symbols, strict=True)):
        span = f"{_comment(symbol.name)}: {symbol.low} to {symbol.high}"
        lines.append(f"#define {upper}_SYMBOL_{name.upper()} {k} /* {span} */")
    for kind, tensors in (("INPUT", s.inputs), ("OUTPUT", s.outputs)):
        for k, (t, name) in enumerate(zip(tensors, _tensor_names(tensors), strict=True)):
            full = f"{upper}_{kind}_{name.upper()}"
            late = ", its sizes are known after a run" if t.late else ""
            optional = ", may be left out (NULL)" if t.optional else ""
            lines.append(f"\n/* {kind.lower()} {k}: {_comment(str(t))}{late}{optional} */")
            lines.append(f"#define {full} {k}")
            if t.size is not None:
                lines.append(f"#define {full}_ELEMENTS {t.size}")
                lines.append(f"#define {full}_BYTES {t.size * t.item_size}")
            if t.labels:
                along = "" if t.label_axis is None else f" /* along dim {t.label_axis} */"
                lines.append(f"#define {full}_CLASSES {len(t.labels)}{along}")
    return "\n".join(lines)


def _tensor_names(tensors: Sequence[Tensor]) -> list[str]:
    return unique_names([t.name for t in tensors])


def _parameter(name: str, prefix: str) -> str:
    """A name that hides nothing which the function uses, and that is no macro."""
    name = name.lower() if name.isupper() else name
    used = name in ("context", "inputs", "outputs") or name.endswith("_t")
    return f"{name}_" if used or name.startswith(("naru_", f"{prefix}_")) else name


def _predict(s: Signature, prefix: str) -> str:
    """A typed call, where every size is known."""
    if not s.is_static:
        return ""
    names = unique_names([t.name for t in (*s.inputs, *s.outputs)])
    names = [_parameter(n, prefix) for n in names]
    ins, outs = names[: len(s.inputs)], names[len(s.inputs) :]
    upper = prefix.upper()

    def array(t: Tensor, name: str, const: str) -> str:
        return f"{const}{element_type(t.dtype)} *{name} /* {t.size} */"

    params = [array(t, n, "const ") for t, n in zip(s.inputs, ins, strict=True)]
    params += [array(t, n, "") for t, n in zip(s.outputs, outs, strict=True)]
    given = ", ".join(
        f"{{{n}, {t.size * t.item_size if t.size is not None else 0}}}"
        for t, n in zip(s.inputs, ins, strict=True)
    )
    taken = ", ".join(
        f"{{{n}, {t.size * t.item_size if t.size is not None else 0}}}"
        for t, n in zip(s.outputs, outs, strict=True)
    )
    listed = ",\n        ".join(params)
    return (
        f"\n/* run() with types: arrays of {upper}_…_ELEMENTS elements. */\n"
        f"static inline naru_status {prefix}_predict(naru_context *context,\n        {listed})\n"
        "{\n"
        f"    const naru_input inputs[] = {{{given or '{NULL, 0}'}}};\n"
        f"    naru_output outputs[] = {{{taken}}};\n"
        f"    return {prefix}_run(context, inputs, outputs);\n"
        "}\n"
    )


def header(s: Signature, *, file: str, source: str, memory: int | None) -> str:
    """The header of a library. `memory`: bytes of a context where every size is known; `source`:
    the name of the model's file; `file`: of the file of weights."""
    prefix = s.prefix
    return _fill(
        (_HERE / "model.h").read_text(encoding="utf-8"),
        PREFIX=prefix,
        UPPER=prefix.upper(),
        VERSION=VERSION,
        SOURCE=_comment(source),
        WEIGHTS=_comment(file),
        LIBRARY=(_HERE / "library.h").read_text(encoding="utf-8").strip(),
        CONSTANTS=_constants(s, prefix, memory),
        PREDICT=_predict(s, prefix),
        SIGNATURE="\n".join(
            f" *   {kind} {_comment(str(t))}"
            for kind, tensors in (("takes", s.inputs), ("gives", s.outputs))
            for t in tensors
        ),
    )


def example(s: Signature, language: str, values: Mapping[str, int]) -> str:
    """A program that opens the library, runs it on made-up inputs and prints the outputs; `c` or
    `cpp`. `values`: of the symbols."""
    prefix = s.prefix
    sizes = ", ".join(str(values[v.name]) for v in s.symbols)
    return _fill(
        (_HERE / f"example.{language}").read_text(encoding="utf-8"),
        PREFIX=prefix,
        UPPER=prefix.upper(),
        NAME=s.name,
        SIZES=sizes or "0",
    )
