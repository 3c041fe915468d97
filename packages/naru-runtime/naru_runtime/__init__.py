"""Runs the bundles that naru compiles, with nothing but numpy.

import naru_runtime as naru

model = naru.load("digits.naru")
logits = model(images)

`load` and `Model` are those of the package naru, from the same files; see docs/runtime.md there.
"""

from __future__ import annotations

from .errors import NaruError
from .runtime.model import Model
from .runtime.session import load
from .version import VERSION as __version__

__all__ = ["Model", "NaruError", "__version__", "load"]
