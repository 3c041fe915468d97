"""A TorchScript module as one that torch.export traces.

Its own interpreter runs it while the tracer watches, so nothing need read TorchScript's graphs. The
module is held where torch.export does not look for parameters: those of TorchScript are no
nn.Parameter, and become constants.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from naru.errors import InputError
from naru.frontend.torch_library import library


def as_traceable(script: Any) -> Any:
    """An nn.Module that calls a ScriptModule; its forward() has the names of that one's.
    Raises InputError for one in training mode: it is not ours to change."""
    if script.training:
        raise InputError("the TorchScript module is in training mode", hint="module.eval() first")
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(
        [inspect.Parameter(name, kind) for name in argument_names(script)]
    )

    def forward(*args: Any, **kwargs: Any) -> Any:
        return script(*signature.bind(*args, **kwargs).args)

    held = library().nn.Module()
    held.eval()
    forward.__dict__["__signature__"] = signature
    held.forward = forward
    return held


def argument_names(script: Any) -> list[str]:
    """The arguments of a TorchScript module's forward(); of a traced one `input`, not `input.1`."""
    taken: list[str] = []
    for argument in list(script.forward.schema.arguments)[1:]:
        name = re.sub(r"\W.*", "", str(argument.name)) or "input"
        while name in taken:
            name += "_"
        taken.append(name)
    return taken
