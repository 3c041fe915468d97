"""PyTorch, loaded when a model asks for it, and what of its world is plain data: dtypes, arrays.

Its objects are `Any` here: its type hints say little about graphs, and nothing about what tracing
gives.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, cast

import ml_dtypes
import numpy as np

from naru.errors import ModelError
from naru.frontend.onnx_node import Unsupported

DTYPE_NAMES = {
    "float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16", "bool": "bool",
    "int64": "i64", "int32": "i32", "int16": "i16", "int8": "i8",
    "uint8": "u8", "uint16": "u16", "uint32": "u32", "uint64": "u64",
    "float8_e4m3fn": "f8e4m3fn", "float8_e5m2": "f8e5m2",
    "float8_e4m3fnuz": "f8e4m3fnuz", "float8_e5m2fnuz": "f8e5m2fnuz",
}  # fmt: skip
# Of these numpy has no notion of its own: (the integer of their size, their numpy dtype).
_FOREIGN = {
    "bfloat16": ("int16", ml_dtypes.bfloat16),
    "float8_e4m3fn": ("uint8", ml_dtypes.float8_e4m3fn),
    "float8_e5m2": ("uint8", ml_dtypes.float8_e5m2),
    "float8_e4m3fnuz": ("uint8", ml_dtypes.float8_e4m3fnuz),
    "float8_e5m2fnuz": ("uint8", ml_dtypes.float8_e5m2fnuz),
}


def library(module: str = "torch") -> Any:
    """PyTorch, or a module of it. Raises ModelError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "torch":
            raise
        raise ModelError(
            "this is a model of PyTorch, which is not installed",
            hint="pip install 'naru[torch]'",
        ) from None


def items(value: Any) -> list[Any] | None:
    """The items of a list or tuple; None for anything else."""
    return list(cast("list[Any]", value)) if isinstance(value, list | tuple) else None


def entries(value: Any) -> dict[Any, Any] | None:
    """The entries of a mapping; None for anything else."""
    return dict(cast("dict[Any, Any]", value)) if isinstance(value, Mapping) else None


def dtype_name(dtype: Any) -> str:
    """The name of a torch.dtype here. Raises Unsupported."""
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPE_NAMES:
        raise Unsupported(f"tensors of {name}", "real numbers, integers or bools")
    return DTYPE_NAMES[name]


def to_numpy(tensor: Any) -> np.ndarray:
    """The contents of a dense tensor, wherever it is. Raises Unsupported."""
    torch = library()
    if tensor.layout != torch.strided or tensor.is_quantized:
        what = "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
        raise Unsupported(f"a {what} tensor", "a dense one: x.to_dense(), x.dequantize()")
    dtype_name(tensor.dtype)
    dense = tensor.detach().resolve_neg().cpu().contiguous()
    foreign = _FOREIGN.get(str(tensor.dtype).removeprefix("torch."))
    if foreign is None:
        return np.asarray(dense.numpy())
    bits, dtype = foreign
    return np.asarray(dense.view(getattr(torch, bits)).numpy()).view(dtype)


def to_tensor(array: np.ndarray) -> Any:
    """A tensor of an array's memory, where that lies in order and may be written to."""
    torch = library()
    made = np.ascontiguousarray(array).reshape(array.shape)
    if not made.flags.writeable:
        made = made.copy()
    foreign = _FOREIGN.get(made.dtype.name)
    if foreign is None:
        return torch.from_numpy(made)
    return torch.from_numpy(made.view(foreign[0])).view(getattr(torch, made.dtype.name))
