"""The smallest part of a model that differs, as a script to run, edit, and attach to a bug report.

Weights and inputs are inside the script where they are small, else in an .npz beside it. The model
is ONNX text that a person can change, or an .onnx beside it where the text would not be the same.
"""

from __future__ import annotations

import base64
import io
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from naru.inputs import Array
from naru.verify.search import Culprit
from naru.verify.sides import ONNXRUNTIME
from naru.version import VERSION

MOST_INSIDE = 16_384  # bytes of arrays that stand in the script itself
MOST_TEXT = 60_000  # characters of a model that does

_HEAD = '''\
"""naru and {other} differ: {node}.

Found by `naru verify` of naru {version} in {source}: {scope}.
Output {output!r}: {outcome}.

    python {name}

leaves with exit code 3 while they differ, with 0 when they no longer do.
"""

import base64
import io
import pathlib
import sys

import numpy as np
import onnx

import naru
{imports}
RTOL, ATOL = {rtol!r}, {atol!r}  # the rms of the difference may be ATOL + RTOL * rms(wanted)
HERE = pathlib.Path(__file__).parent
'''
_BODY = """

def rms(x):
    return float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0


differs = False
for output, ours, theirs in zip(model.graph.output, got, wanted, strict=True):
    limit = 0.0 if ours.dtype.kind in "biu" else ATOL + RTOL * rms(theirs.astype(np.float64))
    error = rms(ours.astype(np.float64) - theirs.astype(np.float64))
    wrong = not error <= limit
    differs = differs or wrong
    print(f"{output.name}: {ours.dtype}{list(ours.shape)}, rms of the difference {error:.3g},",
          f"limit {limit:.3g}:", "DIFFERENT" if wrong else "equal within it")
    print(f"naru\\n{ours}\\nwanted\\n{theirs}")
sys.exit(3 if differs else 0)
"""
_RUN_NARU = """\
made = naru.compile(model, cache=False)
got = made(inputs) if len(model.graph.output) > 1 else (made(inputs),)
"""
_RUN_OTHER = {
    True: """\
session = onnxruntime.InferenceSession(model.SerializeToString())
wanted = session.run(None, inputs)
""",
    False: """\
graph = read_onnx(model)
wanted = evaluate(graph, [inputs[n.attr("name")] for n in graph.inputs], float64=True)
""",
}
_IMPORTS = {
    True: "import onnxruntime\n",
    False: "from naru.frontend.onnx import read_onnx\nfrom naru.ops.evaluate import evaluate\n",
}


def write_script(
    culprit: Culprit, source: Path, folder: Path, limits: tuple[float, float]
) -> list[Path]:
    """Writes verify_<model>_<node>.py into the folder, and what it needs beside it; the paths, the
    script first. Replaces no file: a number makes the name new. OSError where it cannot write."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = _free_stem(folder, f"verify_{_word(source.stem)}_{_word(culprit.name)}")
    kept = _Kept.of(culprit)
    written = [folder / f"{stem}.py"]
    for suffix, data in kept.beside.items():
        written.append(folder / f"{stem}{suffix}")
        written[-1].write_bytes(data)
    onnxruntime = culprit.against == ONNXRUNTIME
    head = _HEAD.format(
        other="ONNX Runtime" if onnxruntime else "the reference",
        node=culprit.node,
        version=VERSION,
        source=source.name,
        scope="this node differs by itself"
        if culprit.alone
        else f"these {len(culprit.labels)} nodes differ together",
        output=culprit.difference.output,
        outcome=_outcome(culprit),
        name=written[0].name,
        imports=_IMPORTS[onnxruntime],
        rtol=limits[0],
        atol=limits[1],
    )
    code = "".join([head, kept.code(stem), _RUN_NARU, _RUN_OTHER[onnxruntime], _BODY])
    written[0].write_text(code, encoding="utf-8")
    return written


def _outcome(culprit: Culprit) -> str:
    d = culprit.difference
    return d.problem or f"relative rms error {d.rms_rel:.2e}, at most {d.max_abs:.2e} off"


def _free_stem(folder: Path, stem: str) -> str:
    taken = {p.stem for p in folder.glob(f"{stem}*")}
    number = next(k for k in range(1, len(taken) + 2) if _numbered(stem, k) not in taken)
    return _numbered(stem, number)


def _numbered(stem: str, number: int) -> str:
    return stem if number == 1 else f"{stem}_{number}"


def _word(text: str) -> str:
    return re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")[:60] or "node"


@dataclass(frozen=True)
class _Kept:
    """Where model and arrays are: `text` of the model, `packed` arrays, or else files `beside`."""

    text: str | None
    packed: bytes | None
    beside: Mapping[str, bytes]

    @staticmethod
    def of(culprit: Culprit) -> _Kept:
        bare = ModelProto()
        bare.CopyFrom(culprit.model)
        del bare.graph.initializer[:]
        weights = {t.name: numpy_helper.to_array(t) for t in culprit.model.graph.initializer}
        # .npz knows no bfloat16; ONNX text has no place for weights, they are added to it.
        plain = all(a.dtype.kind != "V" for a in weights.values())
        text = _text_of(bare) if plain else None
        arrays = {f"input {n}": a for n, a in culprit.part.inputs.items()}
        beside: dict[str, bytes] = {}
        if text is None:
            beside[".onnx"] = culprit.model.SerializeToString()
        else:
            arrays |= {f"weight {n}": a for n, a in weights.items()}
        packed = _pack(arrays)
        if len(packed) > MOST_INSIDE:
            beside[".npz"] = packed
        return _Kept(text, packed if ".npz" not in beside else None, beside)

    def code(self, stem: str) -> str:
        """The lines that make `model` and `inputs`."""
        lines = ["\n"]
        if self.text is not None:
            lines.append(f'MODEL = r"""\n{self.text.strip()}\n"""\n')
        if self.packed is not None:
            data = "\n".join(textwrap.wrap(base64.b64encode(self.packed).decode(), 96))
            lines.append(f'ARRAYS = io.BytesIO(base64.b64decode("""\n{data}\n"""))\n')
        else:
            lines.append(f'ARRAYS = HERE / "{stem}.npz"\n')
        lines.append("\narrays = np.load(ARRAYS)\n")
        if self.text is None:
            lines.append(f'model = onnx.load(HERE / "{stem}.onnx")\n')
        else:
            lines.append(
                "model = onnx.parser.parse_model(MODEL)\n"
                "for name in arrays.files:\n"
                '    if name.startswith("weight "):\n'
                "        weight = onnx.numpy_helper.from_array(arrays[name], name[7:])\n"
                "        model.graph.initializer.append(weight)\n"
            )
        lines.append(
            "inputs = {}\n"
            "for i in model.graph.input:\n"
            "    dtype = onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type)\n"
            '    inputs[i.name] = arrays[f"input {i.name}"].view(dtype)  # .npz has no bfloat16\n'
        )
        return "".join(lines)


def _text_of(model: ModelProto) -> str | None:
    """The model as ONNX text; None where that is long, or reads back as another model."""
    try:
        text = onnx.printer.to_text(model)
        same = onnx.parser.parse_model(text) == model
    except Exception:  # the printer and the parser don't know all of ONNX
        return None
    return text if same and len(text) <= MOST_TEXT and '"""' not in text else None


def _pack(arrays: Mapping[str, Array]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()
