"""naru ferries a trained model from its development form to native code.

import naru

model = naru.compile("digits.onnx")
logits = model(images)
model.save("digits.naru")
model = naru.load("digits.naru")        # needs neither llvmlite nor onnx
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from naru.version import VERSION as __version__

if TYPE_CHECKING:
    from naru.building import build
    from naru.compiler import compile
    from naru.custom import check_op, register_op, unregister_op
    from naru.errors import NaruError
    from naru.runtime.model import Model
    from naru.runtime.session import load
    from naru.targets import Target

__all__ = [
    "Model",
    "NaruError",
    "Target",
    "__version__",
    "build",
    "check_op",
    "compile",
    "load",
    "register_op",
    "unregister_op",
]

# Loaded on first use, so that `import naru` is quick and running a bundle never loads the compiler.
_HOMES = {
    "build": "naru.building",
    "compile": "naru.compiler",
    "check_op": "naru.custom",
    "register_op": "naru.custom",
    "unregister_op": "naru.custom",
    "load": "naru.runtime.session",
    "Model": "naru.runtime.model",
    "Target": "naru.targets",
    "NaruError": "naru.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'naru' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
