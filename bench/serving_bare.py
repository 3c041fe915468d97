"""The least that a Python server can do for the digit MLP: parse the JSON, multiply, write JSON.

    python -m uvicorn serving_bare:app     in a folder with weights.npz: w1, b1, w2, b2

It checks nothing, counts nothing and knows one model: what `naru serve` costs beyond this is the
price of being a server.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

W = dict(np.load("weights.npz"))
HEADERS = [(b"content-type", b"application/json")]


async def app(scope: Any, receive: Any, send: Any) -> None:
    """ASGI 3."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    (given,) = orjson.loads(body)["inputs"]
    x = np.array(given["data"], np.float32).reshape(given["shape"])
    y = np.maximum(x @ W["w1"] + W["b1"], 0) @ W["w2"] + W["b2"]
    output = {"name": "logits", "datatype": "FP32", "shape": y.shape, "data": y.reshape(-1)}
    text = orjson.dumps(
        {"model_name": "digits_mlp", "outputs": [output]}, option=orjson.OPT_SERIALIZE_NUMPY
    )
    headers = [*HEADERS, (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})
