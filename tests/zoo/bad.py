"""Files that must be refused, each with words of which the message must contain at least one.

Most are what a hostile or careless sender can make. The compiler may neither crash on them, nor
read a file it was not given, nor reserve memory because a header says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .build import IR_VERSION, OPSET, text

Verdict = Literal["model", "unsupported", "warning"]


@dataclass(frozen=True)
class Bad:
    """A file, what must happen to it, and words of which the message must contain at least one.

    verdict "model": ModelError, the file is wrong. "unsupported": UnsupportedError, or a clear
    ModelError; the file is legal. "warning": it compiles, and the message is a warning.
    """

    path: Path
    verdict: Verdict
    words: tuple[str, ...]


def bad_models(folder: Path) -> dict[str, Bad]:
    """Writes all of them into `folder/models`, and beside it the secrets they may not read."""
    models = folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    # 12 float32, exactly what the models declare: only the rule about paths can refuse them.
    secret = folder / "secret.bin"
    secret.write_bytes(np.arange(12, dtype=np.float32).tobytes())
    (models / "short.bin").write_bytes(b"\0" * 20)
    (models / "full.bin").write_bytes(b"\0" * 48)
    (models / "folder.bin").mkdir(exist_ok=True)
    (models / "link.bin").unlink(missing_ok=True)
    (models / "link.bin").symlink_to(secret)
    (models / "linked").unlink(missing_ok=True)
    (models / "linked").symlink_to(folder, target_is_directory=True)

    found: dict[str, Bad] = {}
    for name, (content, verdict, words) in (_files() | _external(secret) | _graphs()).items():
        path = models / f"{name}.onnx"
        path.write_bytes(content)
        found[name] = Bad(path, verdict, words)
    found["missing_file"] = Bad(models / "nowhere.onnx", "model", ("nowhere.onnx", "no such file"))
    found["is_a_folder"] = Bad(models / "folder.bin", "model", ("folder", "directory"))
    return found


Entry = tuple[bytes, Verdict, tuple[str, ...]]


def _good() -> onnx.ModelProto:
    return text(
        "(float[n,3] x) => (float[n,4] y) { y = MatMul(x, w) }",
        {"w": np.arange(12, dtype=np.float32).reshape(3, 4)},
    )


def _files() -> dict[str, Entry]:
    """Wrong before any graph is seen."""
    good = _good().SerializeToString()
    return {
        "empty_file": (b"", "model", ("empty", "no graph", "not an onnx")),
        "truncated": (good[: len(good) * 2 // 3], "model", ("truncated", "damaged", "protobuf")),
        "not_protobuf": (b"\x89PNG\r\n\x1a\n" + b"\xff" * 200, "model", ("onnx", "protobuf")),
        "plain_text": (b"This is not a model.\n" * 20, "model", ("onnx", "protobuf", "graph")),
        "zip_archive": (b"PK\x03\x04" + b"\0" * 100, "model", ("onnx", "protobuf", "zip", "graph")),
        # Legal protobuf, of which no field means anything to ONNX: no graph.
        "other_protobuf": (b"\xfa\x7f\x03abc" * 5, "model", ("graph", "onnx")),
    }


def _external(secret: Path) -> dict[str, Entry]:
    """Weights in side files: outside the folder, too short, absent."""

    def located(location: str, **more: str) -> bytes:
        model = _good()
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **more}.items():
            tensor.external_data.add(key=key, value=value)
        return model.SerializeToString()

    outside = ("outside", "folder", "path", "external")
    short = ("short", "bytes", "length", "external")
    return {
        "external_parent_folder": (located("../secret.bin"), "model", outside),
        "external_parent_folder_inside": (located("x/../../secret.bin"), "model", outside),
        "external_absolute": (located(str(secret)), "model", outside),
        "external_device": (located("/dev/zero"), "model", outside),
        "external_symlink": (located("link.bin"), "model", outside),
        "external_symlinked_folder": (located("linked/secret.bin"), "model", outside),
        "external_is_a_folder": (located("folder.bin"), "model", outside),
        "external_no_location": (located(""), "model", ("location", "external")),
        "external_missing": (located("nothing.bin"), "model", ("nothing.bin",)),
        "external_short": (located("short.bin"), "model", short),
        "external_length_short": (located("full.bin", length="20"), "model", short),
        "external_length_beyond": (located("short.bin", length="48"), "model", short),
        "external_offset_beyond": (located("full.bin", offset="40"), "model", short),
        "external_offset_negative": (
            located("full.bin", offset="-8"),
            "model",
            ("offset", "negative", "external"),
        ),
        "external_offset_not_a_number": (
            located("full.bin", offset="eight"),
            "model",
            ("offset", "external"),
        ),
    }


def _tensor(dims: list[int], raw: bytes, data_type: int = TensorProto.FLOAT) -> TensorProto:
    return TensorProto(name="w", dims=dims, raw_data=raw, data_type=data_type)


def _with_weight(tensor: TensorProto) -> onnx.ModelProto:
    model = _good()
    model.graph.initializer[0].CopyFrom(tensor)
    return model


def _nodes(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    """A model of these nodes with inputs x: float[3], i: int64[3], and float[3] outputs."""
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [3]),
        helper.make_tensor_value_info("i", TensorProto.INT64, [3]),
    ]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in outputs]
    graph = helper.make_graph(list(nodes), "main", inputs, results)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    # The node's own name is one that a message can quote.
    return helper.make_node(
        op, inputs.split(), outputs.split(), name=f"the_{op.lower()}", **attributes
    )


def _edited(model: onnx.ModelProto, edit: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    edit(model)
    return model


def _recursive(*calls: tuple[str, str]) -> onnx.ModelProto:
    """Local functions, each of which calls the one it is paired with."""
    model = _nodes(helper.make_node(calls[0][0], ["x"], ["y"], domain="zoo"))
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("zoo", 1)]
    for name, called in calls:
        body = [helper.make_node(called, ["a"], ["b"], domain="zoo")]
        model.functions.append(helper.make_function("zoo", name, ["a"], ["b"], body, opsets))
    model.opset_import.append(opsets[1])
    return model


def _unequal_branches() -> onnx.ModelProto:
    return text(
        """(float[3] x, bool c) => (float[3] y) {
          y = If (c) <
            then_branch = a () => (float[3] p) { p = Neg(x) },
            else_branch = b () => (int64[3] q) { q = Cast <to = 7> (x) }
          >
        }"""
    )


def _sparse(
    places: list[Any], dims: list[int] | None = None, values: tuple[float, ...] = (1.0, 2.0)
) -> onnx.ModelProto:
    """The good model with its weight stored as the values at those places."""
    model = _good()
    found = numpy_helper.from_array(np.array(values, np.float32), "w")
    indices = numpy_helper.from_array(np.array(places), "w_indices")
    sparse = helper.make_sparse_tensor(found, indices, [3, 4] if dims is None else dims)
    model.graph.ClearField("initializer")
    model.graph.sparse_initializer.append(sparse)
    return model


def _sparse_graphs() -> dict[str, tuple[onnx.ModelProto, Verdict, tuple[str, ...]]]:
    bounds, order = ("indices in 0..",), ("ascending",)
    return {
        "sparse_beyond": (_sparse([1, 12]), "model", bounds),
        "sparse_negative": (_sparse([-1, 7]), "model", bounds),
        "sparse_beyond_by_axis": (_sparse([[0, 1], [0, 4]]), "model", bounds),
        "sparse_twice": (_sparse([7, 7]), "model", order),
        "sparse_unordered": (_sparse([[2, 1], [0, 3]]), "model", order),
        "sparse_count": (_sparse([1, 7, 8]), "model", ("indices",)),
        "sparse_rank": (_sparse([[0, 1, 2], [2, 2, 2]]), "model", ("indices",)),
        "sparse_float_indices": (_sparse([1.0, 7.0]), "model", ("indices",)),
        "sparse_scalar": (_sparse([0, 1], []), "model", ("dims",)),
        "sparse_negative_dim": (_sparse([0, 1], [3, -4]), "model", ("dims",)),
        "sparse_shape": (_sparse([1, 7], [4, 4]), "model", ("MatMul",)),
        # A file of some hundred bytes may not ask for a terabyte.
        "sparse_huge": (_sparse([1, 7], [1 << 20, 1 << 20]), "unsupported", ("dense",)),
        "sparse_overflow": (_sparse([1, 7], [1 << 40, 1 << 40]), "unsupported", ("dense",)),
    }


def _declared(code: int) -> onnx.ModelProto:
    """The value z, a float, is declared with this element type."""
    model = text("(float[3] x) => (float[3] y) { z = Neg(x) y = Abs(z) }")
    model.graph.value_info.append(helper.make_tensor_value_info("z", code, [3]))
    return model


def _ml(version: int) -> onnx.ModelProto:
    model = text(
        "(float[3,2] x) => (float[3,2] y) "
        "{ y = ai.onnx.ml.Scaler <offset = [0.0], scale = [2.0]> (x) }"
    )
    model.opset_import.add(domain="ai.onnx.ml", version=version)
    return model


def _on_constant(op: str, values: list[int], *, scalar: bool = False) -> onnx.ModelProto:
    """`op`(x, c) on x: float[3] and constant integers c."""
    c = np.array(values[0] if scalar else values, np.int64)
    return text(f"(float[3] x) => (float[] y) {{ y = {op} (x, c) }}", {"c": c})


def _operands() -> dict[str, tuple[onnx.ModelProto, Verdict, tuple[str, ...]]]:
    """Constant operands and attributes that no tensor fits."""
    negative = ("negative", "at least 0", "below 0", "-2")
    one_hot = "(int64[3] x, float[2] v) => (float[] y) { y = OneHot(x, c, v) }"
    fill = "() => (float[] y) { y = ConstantOfShape(c) }"
    expand = "(float[3] x) => (float[] y) { y = Expand(x, c) }"
    minus = np.array([-2], np.int64)
    models = {
        "gather_beyond": (_on_constant("Gather", [7]), ("out of range",)),
        "gather_below": (_on_constant("Gather", [-4], scalar=True), ("out of range",)),
        "one_hot_negative": (text(one_hot, {"c": minus[0]}), negative),
        "constant_of_negative_shape": (text(fill, {"c": minus}), negative),
        "expand_negative": (text(expand, {"c": minus}), negative),
        "tile_negative": (_on_constant("Tile", [-2]), negative),
        "tile_of_two_axes": (_on_constant("Tile", [1, 2]), ("tile", "repeats")),
        "pad_below_nothing": (_on_constant("Pad", [-2, -2]), ("pad", "negative", "at least 0")),
        "pads_of_three": (_on_constant("Pad", [1, 1, 1]), ("pads",)),
        "squeeze_of_three": (_on_constant("Squeeze", [0]), ("squeeze", "size 1")),
        "unsqueeze_twice": (_on_constant("Unsqueeze", [0, 0]), ("unsqueeze", "axes", "twice")),
        "reduce_axis": (_on_constant("ReduceSum", [4]), ("axis",)),
        "top_k_beyond": (
            text("(float[3] x) => (float[] y, int64[] i) { y, i = TopK(x, c) }",
                 {"c": np.array([4], np.int64)}),
            ("k", "3"),
        ),
        "split_differs": (
            text("(float[3] x) => (float[] y, float[] z) { y, z = Split(x, c) }",
                 {"c": np.array([1, 1], np.int64)}),
            ("split", "sum"),
        ),
        "slice_step_0": (
            text("(float[3] x) => (float[] y) { y = Slice(x, z, c, z, z) }",
                 {"c": np.array([2], np.int64), "z": np.array([0], np.int64)}),
            ("step",),
        ),
    }  # fmt: skip
    return {name: (model, "model", words) for name, (model, words) in models.items()}


def _unnamed_type() -> onnx.ModelProto:
    model = _nodes(_node("Neg", "x"))
    model.graph.input[0].type.ClearField("tensor_type")
    return model


def _graphs() -> dict[str, Entry]:
    """Parsed, but wrong or not compilable."""
    nan = np.full((3, 4), np.nan, np.float32)
    infinite = np.full((3, 4), np.inf, np.float32)
    enormous = (
        "(float[1099511627776,1099511627776] x) => (float y) { y = ReduceSum <keepdims = 0> (x) }"
    )
    wrong: dict[str, tuple[onnx.ModelProto, Verdict, tuple[str, ...]]] = {
        "cycle": (
            _nodes(_node("Add", "x b", "a"), _node("Neg", "a", "b"), _node("Abs", "b")),
            "model",
            ("cycle", "cyclic", "order"),
        ),
        "self_loop": (_nodes(_node("Add", "x y", "y")), "model", ("cycle", "cyclic", "order")),
        "missing_input": (_nodes(_node("Add", "x ghost")), "model", ("ghost",)),
        "missing_output": (_nodes(_node("Neg", "x", "z")), "model", ("y",)),
        "missing_value_in_branch": (
            text(
                """(float[3] x, bool c) => (float[3] y) {
                  y = If (c) <
                    then_branch = a () => (float[3] p) { p = Neg(ghost) },
                    else_branch = b () => (float[3] q) { q = Neg(x) }
                  >
                }"""
            ),
            "model",
            ("ghost",),
        ),
        "duplicate_output": (
            _nodes(_node("Neg", "x"), _node("Abs", "x")),
            "model",
            ("twice", "duplicate", "more than once", "already", "two"),
        ),
        "output_overwrites_input": (
            _nodes(_node("Neg", "x", "x"), _node("Abs", "x")),
            "model",
            ("twice", "duplicate", "more than once", "already", "two"),
        ),
        "duplicate_input": (
            _edited(_nodes(_node("Neg", "x")), lambda m: m.graph.input.append(m.graph.input[0])),
            "model",
            ("twice", "duplicate", "more than once", "already", "two"),
        ),
        "duplicate_initializer": (
            _edited(_good(), lambda m: m.graph.initializer.append(m.graph.initializer[0])),
            "model",
            ("twice", "duplicate", "more than once", "already", "two"),
        ),
        "no_graph": (_edited(_good(), lambda m: m.ClearField("graph")), "model", ("graph",)),
        "no_outputs": (
            _edited(_good(), lambda m: m.graph.ClearField("output")),
            "model",
            ("output",),
        ),
        "no_opset": (
            _edited(_good(), lambda m: m.ClearField("opset_import")),
            "model",
            ("opset",),
        ),
        "opset_too_new": (
            _edited(_good(), lambda m: m.opset_import[0].__setattr__("version", 4000)),
            "model",
            ("4000", "opset"),
        ),
        "ir_version_too_new": (
            _edited(_good(), lambda m: m.__setattr__("ir_version", 4000)),
            "model",
            ("4000", "ir_version", "ir version"),
        ),
        "raw_data_short": (_with_weight(_tensor([3, 4], b"\0" * 40)), "model", ("bytes", "w")),
        "raw_data_long": (_with_weight(_tensor([3, 4], b"\0" * 64)), "model", ("bytes", "w")),
        "float_data_short": (
            _with_weight(
                TensorProto(name="w", dims=[3, 4], data_type=TensorProto.FLOAT, float_data=[1.0])
            ),
            "model",
            ("values", "elements", "w"),
        ),
        "absurd_dims": (
            _with_weight(_tensor([2**40, 2**40], b"\0" * 48)),
            "model",
            ("dims", "bytes", "too large", "w"),
        ),
        "absurd_dims_overflow_to_zero": (
            # 2**32 * 2**32 is 0 in 64 bits.
            _with_weight(_tensor([2**32, 2**32], b"")),
            "model",
            ("dims", "bytes", "too large", "w"),
        ),
        "negative_dims": (
            _with_weight(_tensor([-3, -4], b"\0" * 48)),
            "model",
            ("negative", "dims", "w"),
        ),
        "negative_input_dim": (
            _nodes_with_input_dim(-3),
            "model",
            ("negative", "dim", "x"),
        ),
        "absurd_input_dims": (text(enormous), "model", ("too large", "dim", "x")),
        "undefined_dtype": (
            _with_weight(_tensor([3, 4], b"\0" * 48, data_type=0)),
            "model",
            ("type", "w"),
        ),
        "unheard_of_dtype": (
            _with_weight(_tensor([3, 4], b"\0" * 48, data_type=999)),
            "model",
            ("type", "999", "w"),
        ),
        "unknown_op": (_nodes(_node("Frobnicate", "x")), "unsupported", ("Frobnicate",)),
        "unknown_domain": (
            _edited(
                _nodes(_node("Gelu", "x", domain="com.example")),
                lambda m: m.opset_import.append(helper.make_opsetid("com.example", 1)),
            ),
            "unsupported",
            ("com.example",),
        ),
        "unimported_domain": (
            _nodes(_node("Gelu", "x", domain="com.example")),
            "unsupported",
            ("com.example",),
        ),
        "many_unknown_ops": (
            # The message must name all three, not the first.
            _nodes(
                _node("Frobnicate", "x", "a"),
                _node("Quuxify", "a", "b"),
                _node("Relu", "b", "c"),
                _node("Zorch", "c"),
            ),
            "unsupported",
            ("Zorch",),
        ),
        "attribute_of_wrong_type": (
            _nodes(_node("LeakyRelu", "x", alpha="steep")),
            "model",
            ("alpha",),
        ),
        "attribute_unknown": (_nodes(_node("Relu", "x", wobble=1)), "model", ("wobble",)),
        "attribute_missing": (_nodes(_node("Cast", "x")), "model", ("to",)),
        "attribute_out_of_range": (
            _nodes(_node("Softmax", "x", axis=5)),
            "model",
            ("axis", "5"),
        ),
        "permutation_repeats": (
            text("(float[2,3] x) => (float[2,2] y) { y = Transpose <perm = [0, 0]> (x) }"),
            "model",
            ("perm",),
        ),
        "too_few_inputs": (_nodes(_node("Add", "x")), "model", ("input", "Add")),
        "too_many_inputs": (_nodes(_node("Relu", "x x")), "model", ("input", "Relu")),
        "types_differ": (_nodes(_node("Add", "x i")), "model", ("type", "int64", "i64")),
        "type_not_allowed": (_nodes(_node("Sqrt", "i")), "model", ("type", "int64", "i64")),
        "output_type_differs": (
            # The node makes int64, the graph promises float.
            _nodes(_node("Identity", "i")),
            "model",
            ("type", "int64", "i64"),
        ),
        "shapes_differ": (
            text("(float[2,3] x, float[4,5] w) => (float[2,5] y) { y = MatMul(x, w) }"),
            "model",
            ("shape", "3", "4"),
        ),
        "shapes_do_not_broadcast": (
            text("(float[2,3] x, float[4] w) => (float[2,3] y) { y = Add(x, w) }"),
            "model",
            ("shape", "broadcast", "dim"),
        ),
        "output_shape_differs": (
            text("(float[2,3] x) => (float[9,9] y) { y = Neg(x) }"),
            "model",
            ("shape", "9"),
        ),
        "conv_channels_differ": (
            text("(float[1,3,8,8] x, float[4,5,3,3] w) => (float[1,4,6,6] y) { y = Conv(x, w) }"),
            "model",
            ("channel", "group", "3", "5"),
        ),
        "reshape_size_differs": (
            text(
                "(float[2,3] x) => (float[4,2] y) "
                "{ s = Constant <value_ints = [4, 2]> () y = Reshape(x, s) }"
            ),
            "model",
            ("reshape", "elements", "6", "8"),
        ),
        "branches_differ": (_unequal_branches(), "model", ("branch", "type", "int64", "i64")),
        "function_calls_itself": (_recursive(("f", "f")), "model", ("recurs", "itself", "cycl")),
        "functions_call_each_other": (
            _recursive(("f", "g"), ("g", "f")),
            "model",
            ("recurs", "itself", "cycl"),
        ),
        "input_without_type": (_unnamed_type(), "model", ("type", "x")),
        "unranked": (
            text("(seq(float[]) x, int64 i) => (float[n] y) { e = SequenceAt(x, i) y = Relu(e) }"),
            "unsupported",
            ("rank",),
        ),
        "empty_sequence": (
            text(
                "(float[n] x) => (float[m] y) "
                "{ s = SequenceEmpty() y = ConcatFromSequence <axis = 0> (s) }"
            ),
            "model",
            ("empty",),
        ),
        **_sparse_graphs(),
        **_operands(),
        "value_declared_otherwise": (_declared(TensorProto.INT64), "model", ("'z'",)),
        "ml_opset_too_new": (_ml(4000), "model", ("4000",)),
        "ml_opset_0": (_ml(0), "model", ("opset 0",)),
        "nan_weights": (
            _with_weight(numpy_helper.from_array(nan, "w")),
            "warning",
            ("nan", "not finite", "non-finite"),
        ),
        "infinite_weights": (
            _with_weight(numpy_helper.from_array(infinite, "w")),
            "warning",
            ("inf", "not finite", "non-finite"),
        ),
    }
    return {
        name: (model.SerializeToString(), verdict, words)
        for name, (model, verdict, words) in wrong.items()
    }


def _nodes_with_input_dim(size: int) -> onnx.ModelProto:
    model = _nodes(_node("Neg", "x"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    return model
