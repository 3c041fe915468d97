"""All ONNX operators that are mapped by a function of their own; the others go by the function body
that the standard gives for them, or are unsupported. Operators of other domains come with a
signature, as the standard says nothing of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from naru.frontend import (
    onnx_attention,
    onnx_contractions,
    onnx_control,
    onnx_einsum,
    onnx_elementwise,
    onnx_gradient,
    onnx_integers,
    onnx_microsoft,
    onnx_microsoft_attention,
    onnx_microsoft_norm,
    onnx_ml,
    onnx_movement,
    onnx_ngrams,
    onnx_norms,
    onnx_optionals,
    onnx_quantization,
    onnx_quantized,
    onnx_quantized_layers,
    onnx_quantized_weights,
    onnx_random,
    onnx_recurrent,
    onnx_reductions,
    onnx_resize,
    onnx_scatter,
    onnx_shapes,
    onnx_signal,
    onnx_sorting,
    onnx_svm,
    onnx_training,
    onnx_trees,
    onnx_vision,
)
from naru.frontend.onnx_signatures import Extension, Handler

TABLE: Mapping[str, Handler] = {
    **onnx_elementwise.TABLE,
    **onnx_contractions.TABLE,
    **onnx_reductions.TABLE,
    **onnx_movement.TABLE,
    **onnx_resize.TABLE,
    **onnx_shapes.TABLE,
    **onnx_ngrams.TABLE,
    **onnx_optionals.TABLE,
    **onnx_scatter.TABLE,
    **onnx_sorting.TABLE,
    **onnx_quantization.TABLE,
    **onnx_integers.TABLE,
    **onnx_random.TABLE,
    **onnx_recurrent.TABLE,
    **onnx_control.TABLE,
    **onnx_attention.TABLE,
    **onnx_einsum.TABLE,
    **onnx_norms.TABLE,
    **onnx_signal.TABLE,
    **onnx_vision.TABLE,
}


EXTENSIONS: Mapping[str, Extension] = {
    "": onnx_microsoft_norm.STANDARD,
    "ai.onnx.preview": onnx_attention.PREVIEW,
    "com.microsoft": {
        **onnx_microsoft.MICROSOFT,
        **onnx_microsoft_attention.MICROSOFT,
        **onnx_microsoft_norm.MICROSOFT,
        **onnx_random.MICROSOFT,
        **onnx_quantization.MICROSOFT,
        **onnx_quantized.MICROSOFT,
        **onnx_integers.MICROSOFT,
        **onnx_quantized_weights.MICROSOFT,
        **onnx_quantized_layers.MICROSOFT,
    },
}


TABLES: Mapping[str, Mapping[str, Handler]] = {
    "": TABLE,
    "ai.onnx.ml": {**onnx_ml.TABLE, **onnx_svm.TABLE, **onnx_trees.TABLE},
    "ai.onnx.preview.training": {**onnx_training.TABLE, **onnx_gradient.TABLE},
}


# Operators that users registered (naru/custom): domain -> operator -> its signature and function at
# a version of the domain; ModelError where it has none.
CUSTOM: dict[str, dict[str, Callable[[int], tuple[str, Handler]]]] = {}


def _extension(op: str, domain: str, version: int) -> tuple[str, Handler] | None:
    found = EXTENSIONS.get(domain, {}).get(op)
    if found is None and op in CUSTOM.get(domain, {}):
        return CUSTOM[domain][op](version)
    return found


def find_handler(op: str, domain: str, version: int) -> Handler | None:
    """The function for an operator at a version of its domain."""
    if op in TABLES.get(domain, {}):
        return TABLES[domain][op]
    found = _extension(op, domain, version)
    return None if found is None else found[1]


def find_signature(op: str, domain: str, version: int) -> str | None:
    """The signature of an operator beyond the standard (see onnx_signatures.py)."""
    found = _extension(op, domain, version)
    return None if found is None else found[0]


def operators() -> dict[str, list[str]]:
    """The operators of each domain that have a function here, the standard's own domain first."""
    found = {domain: set(table) for domain, table in TABLES.items()}
    for domain, table in EXTENSIONS.items():
        found.setdefault(domain, set()).update(table)
    return {domain or "ai.onnx": sorted(names) for domain, names in found.items()}
