"""The protocol's names of datatypes, and numpy's dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np

from naru.artifact.manifest import dtype_of

TEXT = "BYTES"
# datatype -> the manifest's name of the dtype (Open Inference Protocol, "Tensor Data Types"; BF16
# is Triton's)
DTYPES = {
    "BOOL": "bool",
    "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "FP16": "float16", "BF16": "bfloat16", "FP32": "float32", "FP64": "float64",
    TEXT: "string",
}  # fmt: skip
DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}
# Triton's names in a model's configuration are the same with a prefix, but for texts.
CONFIG_TYPES = {d: "TYPE_STRING" if d == TEXT else f"TYPE_{d}" for d in DTYPES}


def numpy_dtype(datatype: str) -> np.dtype[Any]:
    """The dtype of arrays of a datatype; texts are objects (`str`)."""
    return np.dtype(object) if datatype == TEXT else dtype_of(DTYPES[datatype])
