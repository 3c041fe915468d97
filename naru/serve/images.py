"""PNG and JPEG bodies, for models that take pixels: those compiled with declared preprocessing."""

from __future__ import annotations

import importlib
import io
from typing import Any

from numpy.typing import NDArray

from naru.errors import InputError
from naru.inputs import decode_image
from naru.runtime.model import TensorInfo
from naru.serve.refusals import INVALID, Refusal
from naru.serve.signature import Signature

MEDIA = ("image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif")

_PIXEL = 8  # bytes that one takes while an image is decoded: 4, and those of a copy


def unpacked_size(body: bytes) -> int:
    """Bytes that decoding an image will take, read from its head: a few bytes may say that there
    are millions of pixels. What has no head that can be read is left to `decode`."""
    try:
        image: Any = importlib.import_module("PIL.Image")
        with image.open(io.BytesIO(body)) as found:
            return found.width * found.height * _PIXEL
    except Exception:  # as much as Pillow finds wrong with it
        return 0


def decode(body: bytes, signature: Signature) -> dict[str, NDArray[Any]]:
    """The pixels of an image as the model's one input. Raises a Refusal."""
    required = [t for t in signature.inputs if not t.optional]
    if len(required) != 1:
        raise Refusal(INVALID, f"an image is for a model of one input, this has {len(required)}")
    tensor = required[0]
    info = TensorInfo(tensor.name, tensor.dtype.name, tensor.dims)
    try:
        pixels = decode_image(io.BytesIO(body), info, "the body")
    except InputError as error:
        raise Refusal(INVALID, str(error).replace("\n", " ")) from None
    if len(tensor.dims) == 4:
        pixels = pixels[None]
    return {tensor.name: pixels}
