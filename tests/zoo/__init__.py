"""A zoo of ONNX models that prove the design: one small model per thing that can go wrong.

    from zoo import CASES
    for feed in CASES["softmax_axes"].feeds():
        expected = onnxruntime_session.run(None, feed)

`CASES` holds every model with inputs at several sizes. `networks` makes the whole networks
(ResNet-50, transformer encoders; torch is needed) and keeps them in a cache outside the repository;
`bad_models` writes files that a compiler must refuse.
"""

from __future__ import annotations

from . import (  # these only register cases
    contractions,
    indexing,
    quantized,
    recurrent,
    reductions,
    trees,
    vision,
)
from .bad import Bad, bad_models
from .build import CASES, Case, random_inputs, random_values, text, weight
from .control import (
    external_data_model,
    function_model,
    if_model,
    loop_model,
    nonzero_model,
    while_model,
)
from .elementwise import (
    boolean_model,
    broadcast_model,
    chain,
    diamond,
    empty_tensor_model,
    integer_model,
    scalar_model,
    several_outputs,
)
from .networks import resnet50, tiny_resnet, transformer
from .shapes import five_d_model, shape_chain_model, split_model

__all__ = [
    "CASES",
    "Bad",
    "Case",
    "bad_models",
    "boolean_model",
    "broadcast_model",
    "chain",
    "contractions",
    "diamond",
    "empty_tensor_model",
    "external_data_model",
    "five_d_model",
    "function_model",
    "if_model",
    "indexing",
    "integer_model",
    "loop_model",
    "nonzero_model",
    "quantized",
    "random_inputs",
    "random_values",
    "recurrent",
    "reductions",
    "resnet50",
    "scalar_model",
    "several_outputs",
    "shape_chain_model",
    "split_model",
    "text",
    "tiny_resnet",
    "transformer",
    "trees",
    "vision",
    "weight",
    "while_model",
]
