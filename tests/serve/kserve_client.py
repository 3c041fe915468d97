"""KServe's client asks a server of the Open Inference Protocol.

    python tests/serve/kserve_client.py HOST:PORT

raises where an answer is not what it must be. It runs in an environment that has the client
(tests/serve/kserve-requirements.txt): it cannot be imported together with Triton's.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import sys
from typing import Any

import numpy as np

X = np.arange(8, dtype=np.float32).reshape(2, 4)
Y = X @ (np.arange(4)[:, None] + np.arange(3)).astype(np.float32)
WORDS = np.array(["naru", "나루", ""], object)


def expect(got: object, wanted: object) -> None:
    """Raises AssertionError that says what was got."""
    if got != wanted:
        raise AssertionError(f"expected {wanted!r}, got {got!r}")


async def ask(base: str) -> None:
    """Asks the server at an address for all that the client can."""
    kserve: Any = importlib.import_module("kserve")
    types: Any = importlib.import_module("kserve.protocol.infer_type")
    client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2", timeout=30))

    def request(model: str, array: Any, name: str, datatype: str, binary: bool, **more: Any) -> Any:
        given = kserve.InferInput(name, list(array.shape), datatype)
        given.set_data_from_numpy(array, binary_data=binary)
        return kserve.InferRequest(model, [given], **more)

    try:
        expect(await client.is_server_live(base), True)
        expect(await client.is_server_ready(base), True)
        expect(await client.is_model_ready(base, "dense"), True)
        expect(await client.is_model_ready(base, "no-such-model"), False)
        for binary_in, binary_out in itertools.product((False, True), (None, False, True)):
            wish = types.RequestedOutput("y", parameters={"binary_data": binary_out})
            more = {} if binary_out is None else {"request_outputs": [wish]}
            asked = request("dense", X, "x", "FP32", binary_in, request_id="a-7", **more)
            answer = await client.infer(base, asked, model_name="dense")
            expect(answer.id, "a-7")
            expect(answer.outputs[0].as_numpy().tolist(), Y.tolist())
        for binary in (False, True):
            asked = request("texts", WORDS, "word", "BYTES", binary)
            answer = await client.infer(base, asked, model_name="texts")
            expect(answer.outputs[0].data, ["NARU", "나루", ""])
        await _expect_refusal(client, base, request("dense", X, "no_such_input", "FP32", True))
    finally:
        await client.close()


async def _expect_refusal(client: Any, base: str, asked: Any) -> None:
    """The client finds the server's words in the answer."""
    try:
        await client.infer(base, asked, model_name="dense")
    except Exception as error:
        if "there is no input 'no_such_input'" not in str(error) or "400" not in str(error):
            raise
    else:
        raise AssertionError("expected an error, got an answer")


if __name__ == "__main__":
    asyncio.run(ask(f"http://{sys.argv[1]}"))
