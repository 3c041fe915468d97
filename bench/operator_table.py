"""What `operators.py` measures: each operator on one or a few typical shapes of about 1 MB.

Matrix products, convolutions and attention have sizes at which a call takes about a millisecond.
"""

# A line of the table is one case.
# ruff: noqa: E501
# fmt: off

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper
from operator_cases import Operand, b, case, each, f, fixed, h, held, i, s, s8, u, u8, w

MS, ML, TRAIN = "com.microsoft", "ai.onnx.ml", "ai.onnx.preview.training"
F16, I32, U8, I8 = np.float16, np.int32, np.uint8, np.int8
MATRIX = f(512, 512)
IMAGE = f(1, 64, 64, 64)
TOKENS = f(4, 128, 512)

# --- elementwise ----------------------------------------------------------------------------------

each("Abs Ceil Celu Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity LeakyRelu Mish Neg Relu "
     "Round Selu Shrink Sigmoid Sign Softplus Softsign Swish Tanh ThresholdedRelu", MATRIX)
each("Sin Cos Tan Sinh Cosh Asinh Atan", MATRIX)
each("Acos Asin Atanh", u(512, 512, low=-0.95, high=0.95))
case("Acosh", u(512, 512, low=1.1, high=9))
each("Log Sqrt Reciprocal", u(512, 512))
each("Add Sub Mul Div Max Min Mean Sum PRelu", MATRIX, MATRIX)
each("Add Mul", MATRIX, f(512), label="row")
each("Add Mul", MATRIX, f(512, 1), label="column")
each("Add Div Mul", i(256, 512), i(256, 512, low=1), label="int64")
case("Pow", u(512, 512), MATRIX)
case("Pow", MATRIX, s(2), label="square")
case("Mod", MATRIX, u(512, 512, low=1, high=9), fmod=1)
case("Mod", i(256, 512), i(256, 512, low=1), label="int64")
each("And Or Xor", b(1024, 1024), b(1024, 1024))
case("Not", b(1024, 1024))
each("Equal Greater GreaterOrEqual Less LessOrEqual", MATRIX, MATRIX)
each("BitwiseAnd BitwiseOr BitwiseXor", i(512, 512, dtype=I32), i(512, 512, dtype=I32))
case("BitwiseNot", i(512, 512, dtype=I32))
case("BitShift", i(512, 512, low=0, dtype=np.uint32), i(512, 512, low=0, high=31, dtype=np.uint32), direction="LEFT")
case("BitCast", MATRIX, to=TensorProto.INT32, version=26)
each("IsInf IsNaN", MATRIX)
case("Where", b(512, 512), MATRIX, MATRIX)
case("Clip", MATRIX, s(-1), s(1))
case("Cast", MATRIX, to=TensorProto.FLOAT16, label="to float16")
case("Cast", f(512, 512, dtype=F16), to=TensorProto.FLOAT, label="from float16")
case("Cast", MATRIX, to=TensorProto.INT64, label="to int64")
case("Cast", u8(1024, 1024), to=TensorProto.FLOAT, label="from uint8")
case("CastLike", MATRIX, h([0], I32))
case("Dropout", MATRIX)
case("SwiGLU", MATRIX, MATRIX, version=28)
case("Constant", value=helper.make_tensor("v", TensorProto.FLOAT, [512, 512], [1.0] * 2**18))

# --- reductions, norms ----------------------------------------------------------------------------

REDUCTIONS = "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
each(REDUCTIONS, u(512, 512), h([1]), label="rows")
each(REDUCTIONS, u(512, 512), h([0]), label="columns")
each("ReduceMax ReduceMean ReduceSum", u(512, 512), label="all")
each("ReduceMax ReduceMean ReduceSum", f(8, 128, 16, 16), h([2, 3]), label="spatial")
each("ReduceMean ReduceSum", f(8, 16, 16, 128), h([1, 2]), label="middle")
each("ArgMax ArgMin", MATRIX, axis=1, label="rows")
each("ArgMax ArgMin", MATRIX, axis=0, label="columns")
each("CumSum CumProd", u(512, 512), h(1), label="rows", version=26)
each("CumSum", u(512, 512), h(0), label="columns")
each("Softmax LogSoftmax Hardmax", TOKENS)
case("Softmax", IMAGE, axis=1, label="channels")
case("LayerNormalization", TOKENS, w(512), w(512))
case("RMSNormalization", TOKENS, w(512))
case("SimplifiedLayerNormalization", TOKENS, w(512))
case("BatchNormalization", IMAGE, w(64), w(64), w(64), held(u(64)))
case("InstanceNormalization", IMAGE, w(64), w(64))
case("GroupNormalization", IMAGE, w(64), w(64), num_groups=8)
case("MeanVarianceNormalization", f(2, 32, 64, 64))
case("LpNormalization", MATRIX, axis=1)
case("LRN", f(1, 64, 64, 64), size=5)
each("GlobalAveragePool GlobalMaxPool GlobalLpPool", f(4, 64, 32, 32), version=21)

# --- movement -------------------------------------------------------------------------------------

case("Transpose", MATRIX, perm=[1, 0], label="matrix")
case("Transpose", f(4, 64, 32, 32), perm=[0, 2, 3, 1], label="to channels last")
case("Transpose", f(4, 128, 8, 64), perm=[0, 2, 1, 3], label="heads")
case("Transpose", u8(1024, 1024), perm=[1, 0], label="uint8")
case("Reshape", MATRIX, h([256, 1024]))
case("Flatten", f(8, 64, 16, 32))
case("Squeeze", f(1, 512, 512), h([0]))
case("Unsqueeze", MATRIX, h([0]))
each("Shape Size", MATRIX)
case("Slice", f(1024, 512), h([100]), h([612]), h([0]), h([1]), label="rows")
case("Slice", f(512, 1024), h([100]), h([612]), h([1]), h([1]), label="columns")
case("Slice", f(512, 1024), h([0]), h([1024]), h([1]), h([2]), label="every other")
case("Slice", MATRIX, h([-1]), h([-1000]), h([1]), h([-1]), label="reversed")
case("Concat", f(256, 512), f(256, 512), axis=0, label="rows")
case("Concat", f(512, 256), f(512, 256), axis=1, label="columns")
case("Split", MATRIX, axis=0, num_outputs=2, outputs=2, label="rows")
case("Split", MATRIX, axis=1, num_outputs=4, outputs=4, label="columns")
case("Pad", f(1, 64, 62, 62), h([0, 0, 1, 1, 0, 0, 1, 1]), label="constant")
case("Pad", f(1, 64, 62, 62), h([0, 0, 1, 1, 0, 0, 1, 1]), label="reflect", mode="reflect")
case("Pad", f(1, 64, 62, 62), h([0, 0, 1, 1, 0, 0, 1, 1]), label="edge", mode="edge")
case("CenterCropPad", f(512, 640), h([512, 512]))
case("Tile", f(128, 512), h([4, 1]), label="rows")
case("Tile", f(512, 128), h([1, 4]), label="columns")
case("Expand", f(512, 1), h([512, 512]), label="column")
case("Expand", f(1, 512), h([512, 512]), label="row")
case("Gather", f(1000, 512), i(512, low=0, high=1000), label="rows")
case("Gather", f(512, 1000), i(512, low=0, high=1000), axis=1, label="columns")
case("GatherElements", MATRIX, i(512, 512, low=0, high=512), axis=1)
case("GatherND", f(64, 64, 64), i(4096, 2, low=0, high=64), label="rows")
case("GatherND", f(512, 512), i(65536, 2, low=0, high=512), label="elements")
case("ScatterElements", MATRIX, i(512, 256, low=0, high=512), f(512, 256), axis=1)
case("ScatterElements", MATRIX, i(512, 256, low=0, high=512), f(512, 256), axis=1, reduction="add", label="add")
case("Scatter", MATRIX, i(512, 256, low=0, high=512), f(512, 256), axis=1, version=9)
case("ScatterND", f(1000, 512), i(256, 1, low=0, high=1000), f(256, 512), label="rows")
case("ScatterND", MATRIX, i(65536, 2, low=0, high=512), f(65536), label="elements")
case("TensorScatter", f(2, 8, 256, 64), f(2, 8, 16, 64), fixed([3, 100]))
case("DepthToSpace", f(1, 64, 64, 64), blocksize=2)
case("SpaceToDepth", f(1, 64, 64, 64), blocksize=2)
case("ReverseSequence", f(128, 16, 128), i(16, low=1, high=128), time_axis=0, batch_axis=1)
case("Trilu", f(1, 512, 512))
case("EyeLike", MATRIX)
case("OneHot", i(1024, low=0, high=256), h(256), h([0, 1], np.float32))
case("ConstantOfShape", fixed([512, 512]))
case("Range", fixed(0), fixed(2**17), fixed(1))
case("Compress", MATRIX, b(512), axis=0, label="rows")
case("Compress", MATRIX, b(512), axis=1, label="columns")
case("Compress", MATRIX, b(2**18), label="elements")
case("NonZero", b(512, 512))
case("Unique", i(2**17), outputs=4, label="sorted")
case("Unique", i(2**17), outputs=4, sorted=0, label="unsorted")
case("Unique", i(2**17, low=-10**9, high=10**9), outputs=4, label="sorted, many")
case("Unique", i(2**17, low=-10**9, high=10**9), outputs=4, sorted=0, label="unsorted, many")
case("Unique", f(512, 512), outputs=4, axis=0, label="rows")
case("TopK", f(512, 512), h([10]), outputs=2, label="10 of 512")
case("TopK", f(4, 65536), h([100]), outputs=2, label="100 of 65536")
case("TopK", f(512, 512), h([512]), outputs=2, label="all of 512")
case("TopK", f(512, 512), h([10]), outputs=2, axis=0, label="columns")
case("Upsample", f(1, 16, 64, 64), h([1, 1, 2, 2], np.float32), version=9)
case("Resize", f(1, 16, 64, 64), None, None, h([1, 16, 128, 128]), label="nearest")
case("Resize", f(1, 16, 64, 64), None, None, h([1, 16, 128, 128]), mode="linear", label="linear")
case("Resize", f(1, 16, 64, 64), None, None, h([1, 16, 128, 128]), mode="cubic", label="cubic")
case("Resize", f(1, 16, 128, 128), None, None, h([1, 16, 64, 64]), mode="linear", label="linear, half")
case("Resize", f(1, 16, 64, 64), None, None, fixed([1, 16, 128, 128]), mode="linear", label="linear, computed sizes")

# --- contractions ---------------------------------------------------------------------------------

case("MatMul", f(256, 512), w(512, 512))
case("MatMul", f(8, 128, 64), f(8, 64, 128), label="batched")
case("MatMul", f(1, 512), w(512, 512), label="one row")
case("Gemm", f(256, 512), w(512, 512), w(512), transB=1)
case("Einsum", f(8, 128, 64), f(8, 128, 64), equation="bik,bjk->bij")
case("MatMulInteger", u8(256, 512), held(s8(512, 512)))
case("QLinearMatMul", u8(256, 512), s(0.02), h(128, U8), held(s8(512, 512)), s(0.01), h(0, I8), s(0.9), h(128, U8))
case("Det", f(64, 16, 16))
case("Conv", IMAGE, w(64, 64, 3, 3), pads=[1] * 4, label="3x3")
case("Conv", f(1, 64, 32, 32), w(128, 64, 1, 1), label="1x1")
case("Conv", IMAGE, w(64, 1, 3, 3), pads=[1] * 4, group=64, label="depthwise")
case("Conv", f(1, 64, 1024), w(64, 64, 3), pads=[1, 1], label="1-D")
case("ConvTranspose", f(1, 64, 32, 32), w(64, 32, 2, 2), strides=[2, 2])
case("ConvInteger", u8(1, 64, 32, 32), held(u8(64, 64, 3, 3)), pads=[1] * 4)
case("QLinearConv", u8(1, 64, 32, 32), s(0.02), h(128, U8), held(s8(64, 64, 3, 3)), s(0.01), h(0, I8), s(0.9), h(128, U8), pads=[1] * 4)
case("DeformConv", f(1, 16, 32, 32), w(16, 16, 3, 3), f(1, 18, 32, 32), pads=[1] * 4)
case("Col2Im", f(1, 144, 1024), h([34, 34]), h([3, 3]))
case("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], label="2x2")
case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1] * 4, label="3x3")
case("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], label="2x2")
case("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, label="3x3")
case("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], outputs=2, label="2x2, with indices")
case("LpPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2])
case("MaxUnpool", f(1, 64, 32, 32), i(1, 64, 32, 32, low=0, high=2**18), kernel_shape=[2, 2], strides=[2, 2])

# --- recurrent, attention -------------------------------------------------------------------------

case("LSTM", f(64, 4, 128), w(1, 512, 128), w(1, 512, 128), w(1, 1024), outputs=3, hidden_size=128)
case("GRU", f(64, 4, 128), w(1, 384, 128), w(1, 384, 128), w(1, 768), outputs=2, hidden_size=128)
case("RNN", f(64, 4, 128), w(1, 128, 128), w(1, 128, 128), w(1, 256), outputs=2, hidden_size=128)
case("Attention", f(1, 8, 128, 64), f(1, 8, 128, 64), f(1, 8, 128, 64))
case("Attention", f(1, 8, 128, 64), f(1, 8, 128, 64), f(1, 8, 128, 64), is_causal=1, label="causal")
case("FlexAttention", f(1, 8, 128, 64), f(1, 8, 128, 64), f(1, 8, 128, 64), domain="ai.onnx.preview")
case("RotaryEmbedding", f(1, 8, 512, 64), f(512, 32), f(512, 32), i(1, 512, low=0, high=512))
case("LinearAttention", f(1, 128, 512), f(1, 128, 512), f(1, 128, 512), outputs=2, q_num_heads=8, kv_num_heads=8, update_rule="linear", version=27)
case("CausalConvWithState", f(1, 512, 512), w(512, 1, 4), outputs=2, version=27)

# --- quantization ---------------------------------------------------------------------------------

case("QuantizeLinear", MATRIX, s(0.02), h(128, U8))
case("QuantizeLinear", MATRIX, held(u(512)), h([0] * 512, I8), axis=1, label="per channel")
case("DequantizeLinear", u8(1024, 1024), s(0.02), h(128, U8))
case("DequantizeLinear", s8(1024, 1024), held(u(1024)), h([0] * 1024, I8), axis=1, label="per channel")
case("DynamicQuantizeLinear", MATRIX, outputs=3)

# --- vision, signals, text ------------------------------------------------------------------------

case("NonMaxSuppression", u(1, 1000, 4), u(1, 4, 1000), h([100]), s(0.5), s(0.3))
case("RoiAlign", f(1, 64, 64, 64), u(64, 4, low=0, high=60), h([0] * 64), output_height=7, output_width=7, sampling_ratio=2, version=16)
case("MaxRoiPool", f(1, 64, 64, 64), h([[0, 5, 7, 40, 50]] * 64, np.float32), pooled_shape=[7, 7], version=16)
case("GridSample", f(1, 16, 128, 128), u(1, 128, 128, 2, low=-1, high=1), label="linear")
case("GridSample", f(1, 16, 128, 128), u(1, 128, 128, 2, low=-1, high=1), mode="nearest", label="nearest")
case("AffineGrid", f(1, 2, 3), h([1, 3, 256, 256]))
case("DFT", f(64, 1024, 1), h(1024), h(1), version=20, label="real")
case("DFT", f(64, 512, 2), None, h(1), inverse=1, version=20, label="inverse")
case("DFT", f(16, 1000, 1), None, h(1), version=20, label="1000 points")
case("STFT", f(1, 65536, 1), h(256), held(u(512)), h(512))
each("HannWindow HammingWindow BlackmanWindow", fixed(65536))
case("MelWeightMatrix", fixed(40), fixed(1024), fixed(16000), s(20.0), s(8000.0))
case("TfIdfVectorizer", i(64, 512, low=0, high=50, dtype=I32), mode="TF", min_gram_length=1, max_gram_length=2,
     max_skip_count=0, ngram_counts=[0, 20], ngram_indexes=list(range(40)),
     pool_int64s=[*range(20), *(k for j in range(20) for k in (j, j + 1))])
each("Bernoulli", u(512, 512))
each("RandomNormalLike RandomUniformLike", MATRIX)
each("RandomNormal RandomUniform", shape=[512, 512])
case("Multinomial", f(64, 256), sample_size=100)
case("NegativeLogLikelihoodLoss", f(512, 512), i(512, low=0, high=512))
case("SoftmaxCrossEntropyLoss", f(512, 512), i(512, low=0, high=512))

# --- training -------------------------------------------------------------------------------------

STEP = (fixed(0.1, np.float32), fixed(1))
case("Adagrad", *STEP, MATRIX, MATRIX, u(512, 512), domain=TRAIN, outputs=2)
case("Adam", *STEP, MATRIX, MATRIX, MATRIX, u(512, 512), domain=TRAIN, outputs=3)
case("Momentum", *STEP, MATRIX, MATRIX, MATRIX, domain=TRAIN, outputs=2, alpha=0.9, beta=1.0, mode="standard", norm_coefficient=0.001)

# --- ai.onnx.ml -----------------------------------------------------------------------------------

case("ArrayFeatureExtractor", f(512, 1000), i(100, low=0, high=1000), domain=ML)
case("Binarizer", MATRIX, domain=ML, threshold=0.5)
case("FeatureVectorizer", f(512, 256), f(512, 256), domain=ML, inputdimensions=[256, 256])
case("Imputer", MATRIX, domain=ML, imputed_value_floats=[1.0], replaced_value_float=0.0)
case("LabelEncoder", i(2**17, low=0, high=1000), domain=ML, keys_int64s=list(range(0, 1000, 2)), values_int64s=list(range(500)), default_int64=-1)
case("LinearClassifier", f(2000, 128), domain=ML, outputs=2, coefficients=[0.01 * (k % 37 - 18) for k in range(1280)], intercepts=[0.0] * 10, classlabels_ints=list(range(10)), post_transform="SOFTMAX")
case("LinearRegressor", f(2000, 128), domain=ML, coefficients=[0.01 * (k % 37 - 18) for k in range(128)], intercepts=[0.5])
case("Normalizer", MATRIX, domain=ML, norm="L2")
case("OneHotEncoder", i(4096, low=0, high=64), domain=ML, cats_int64s=list(range(64)))
case("Scaler", MATRIX, domain=ML, offset=[0.5], scale=[2.0])


def _trees(count: int, depth: int, features: int, what: str) -> dict[str, object]:
    """Attributes of complete trees with random features and thresholds."""
    rng = np.random.default_rng(0)
    inner, nodes = 2**depth - 1, 2 ** (depth + 1) - 1
    ids = [k for _ in range(count) for k in range(nodes)]
    split = [k < inner for k in ids]
    leaves = [(t, k) for t in range(count) for k in range(inner, nodes)]
    return {
        "nodes_treeids": [t for t in range(count) for _ in range(nodes)],
        "nodes_nodeids": ids,
        "nodes_featureids": [int(rng.integers(features)) if x else 0 for x in split],
        "nodes_values": [float(rng.normal()) if x else 0.0 for x in split],
        "nodes_modes": ["BRANCH_LEQ" if x else "LEAF" for x in split],
        "nodes_truenodeids": [2 * k + 1 if k < inner else 0 for k in ids],
        "nodes_falsenodeids": [2 * k + 2 if k < inner else 0 for k in ids],
        f"{what}_treeids": [t for t, _ in leaves],
        f"{what}_nodeids": [k for _, k in leaves],
        f"{what}_ids": [(t if what == "class" else 0) % 3 for t, _ in leaves],
        f"{what}_weights": [float(rng.normal()) for _ in leaves],
    }


case("TreeEnsembleRegressor", f(2000, 32), domain=ML, n_targets=1, **_trees(50, 6, 32, "target"))
case("TreeEnsembleClassifier", f(2000, 32), domain=ML, outputs=2, classlabels_int64s=[0, 1, 2], **_trees(30, 6, 32, "class"))

# --- com.microsoft --------------------------------------------------------------------------------

HALVES = (s(0.02), h(128, U8))


def ms(op: str, *operands: Operand | None, outputs: int = 1, label: str = "", **attrs: Any) -> None:
    case(op, *operands, domain=MS, outputs=outputs, label=label, **attrs)


ms("BiasGelu", TOKENS, w(512))
ms("BiasAdd", f(1, 1024, 320), w(320), f(1, 1024, 320))
ms("BiasDropout", TOKENS, w(512), TOKENS)
ms("BiasSoftmax", f(8, 8, 64, 64), f(8, 1, 64, 64), axis=3, is_inner_broadcast=0)
ms("BiasSplitGelu", f(1, 256, 2560), w(2560))
ms("CDist", f(512, 64, dtype=np.float32), f(512, 64), metric="euclidean")
ms("ExpandDims", MATRIX, h(0, I32))
ms("FastGelu", TOKENS, w(512))
each("Gelu QuickGelu", TOKENS, domain=MS)
ms("FusedConv", IMAGE, w(64, 64, 3, 3), w(64), pads=[1] * 4, activation="Relu")
ms("FusedGemm", f(256, 512), w(512, 512), w(512), activation="Relu")
ms("FusedMatMul", f(256, 512), w(512, 512), transB=1, alpha=0.5)
ms("FusedMatMulActivation", f(256, 512), w(512, 512), activation="Relu")
ms("TransposeMatMul", f(256, 512), w(512, 512), transB=1)
ms("GemmFastGelu", f(256, 512), w(512, 512), w(512))
ms("GatherND", f(64, 64, 64), i(4096, 2, low=0, high=64))
ms("Rfft", f(64, 1024), signal_ndim=1, onesided=1, normalized=0)
ms("Irfft", f(64, 513, 2), signal_ndim=1, onesided=1, normalized=0)
ms("MurmurHash3", i(512, 512, dtype=I32))
ms("NhwcConv", f(1, 64, 64, 64), w(64, 3, 3, 64), pads=[1] * 4)
ms("NhwcMaxPool", u8(1, 64, 64, 256), kernel_shape=[2, 2], strides=[2, 2])
ms("Pad", MATRIX, h([1, 1, 1, 1]))
ms("Range", fixed(0), fixed(2**17), fixed(1))
ms("TorchEmbedding", f(1000, 512), i(512, low=0, high=1000))
ms("Trilu", f(1, 512, 512))
ms("UnfoldTensor", f(512, 512), dim=1, size=8, step=8)
ms("ConvTransposeWithDynamicPads", f(1, 64, 32, 32), w(64, 32, 2, 2), h([0, 0, 0, 0]), strides=[2, 2])
ms("Attention", f(1, 128, 512), w(512, 1536), w(1536), num_heads=8)
ms("MultiHeadAttention", f(1, 128, 512), f(1, 128, 512), f(1, 128, 512), num_heads=8)
ms("DecoderMaskedMultiHeadAttention", f(4, 1, 512), f(4, 1, 512), f(4, 1, 512), None, None, f(4, 8, 128, 64), f(4, 8, 128, 64), fixed([127], I32), outputs=3, num_heads=8, past_present_share_buffer=1)
ms("GroupQueryAttention", f(1, 128, 512), f(1, 128, 128), f(1, 128, 128), None, None, fixed([127], I32), fixed(128, I32), outputs=3, num_heads=8, kv_num_heads=2)
ms("RotaryEmbedding", f(1, 8, 512, 64), i(1, 512, low=0, high=512), f(512, 32), f(512, 32))
ms("EmbedLayerNormalization", i(4, 128, low=0, high=1000, dtype=I32), i(4, 128, low=0, high=2, dtype=I32), w(1000, 512), w(128, 512), w(2, 512), w(512), w(512), outputs=2)
ms("GroupNorm", f(1, 32, 32, 320), w(320), w(320), groups=32, activation=1, channels_last=1)
ms("SkipGroupNorm", f(1, 32, 32, 320), w(320), w(320), f(1, 32, 32, 320), groups=32, activation=1, channels_last=1)
ms("SimplifiedLayerNormalization", TOKENS, w(512))
ms("SkipLayerNormalization", TOKENS, TOKENS, w(512), w(512), w(512))
ms("SkipSimplifiedLayerNormalization", TOKENS, TOKENS, w(512))
ms("QuantizeLinear", MATRIX, *HALVES)
ms("DequantizeLinear", u8(1024, 1024), *HALVES)
ms("DynamicQuantizeLSTM", f(64, 4, 128), held(s8(1, 128, 512)), held(s8(1, 128, 512)), w(1, 1024), None, None, None, None, h([0.002], np.float32), h([0], I8), h([0.002], np.float32), h([0], I8), outputs=3, hidden_size=128)
ms("DynamicQuantizeMatMul", f(256, 512), held(s8(512, 512)), s(0.01))
ms("MatMulIntegerToFloat", u8(256, 512), held(s8(512, 512)), s(0.02), s(0.01))
ms("MatMulBnb4", f(32, 512), held(u8(512 * 512 // 2)), held(u(4096)), K=512, N=512, block_size=64, quant_type=1)
ms("MatMulNBits", f(32, 512), held(u8(512, 16, 16)), held(u(512 * 16)), K=512, N=512, bits=4, block_size=32)
ms("MatMulNBits", f(1, 512), held(u8(512, 16, 16)), held(u(512 * 16)), K=512, N=512, bits=4, block_size=32, label="one row")
ms("GatherBlockQuantized", held(u8(1000, 256)), i(512, low=0, high=1000), held(u(1000, 16)), block_size=32, gather_axis=0, quantize_axis=1, bits=4)
ms("QGemm", u8(256, 512), *HALVES, held(s8(512, 512)), s(0.01), h(0, I8), None, s(0.9), h(128, U8))
ms("QAttention", u8(1, 128, 512), held(s8(512, 1536)), w(1536), s(0.02), s(0.001), None, h(128, U8), h(0, I8), num_heads=8)
ms("QEmbedLayerNormalization", i(4, 128, low=0, high=1000, dtype=I32), i(4, 128, low=0, high=2, dtype=I32), held(u8(1000, 512)), held(u8(128, 512)), held(u8(2, 512)), held(u8(512)), held(u8(512)), None, *[s(0.02)] * 5, *[h(128, U8)] * 5, outputs=2)
ms("QLinearConv", u8(1, 32, 32, 64), s(0.02), h(128, U8), held(s8(64, 64, 3, 3)), s(0.01), h(0, I8), s(0.9), h(128, U8), pads=[1] * 4, channels_last=1)
each("QLinearAdd QLinearMul", u8(1024, 1024), *HALVES, u8(1024, 1024), *HALVES, s(0.03), h(120, U8), domain=MS)
ms("QLinearAveragePool", u8(1, 256, 64, 64), *HALVES, *HALVES, kernel_shape=[2, 2], strides=[2, 2])
ms("QLinearConcat", s(0.03), h(120, U8), u8(512, 1024), *HALVES, u8(512, 1024), *HALVES, axis=0)
ms("QLinearGlobalAveragePool", u8(4, 256, 32, 32), *HALVES, *HALVES)
ms("QLinearLeakyRelu", u8(1024, 1024), *HALVES, *HALVES)
ms("QLinearReduceMean", u8(1024, 1024), *HALVES, *HALVES, axes=[1])
ms("QLinearSigmoid", u8(1024, 1024), *HALVES, s(1 / 256), h(0, U8))
ms("QLinearSoftmax", u8(1024, 1024), *HALVES, s(1 / 256), h(0, U8), opset=13, axis=-1)
ms("QLinearWhere", b(1024, 1024), u8(1024, 1024), *HALVES, u8(1024, 1024), *HALVES, s(0.03), h(120, U8))

_VECTORS = np.random.default_rng(0).standard_normal(64 * 30).tolist()
_MACHINE = {"kernel_type": "RBF", "kernel_params": [0.3, 0.0, 3.0], "support_vectors": _VECTORS, "rho": [0.4]}
case("SVMRegressor", f(8192, 30), domain="ai.onnx.ml", n_supports=64, coefficients=_VECTORS[:64], **_MACHINE)
case("SVMClassifier", f(8192, 30), domain="ai.onnx.ml", outputs=2, vectors_per_class=[32, 32], classlabels_ints=[0, 1], coefficients=_VECTORS[:64], **_MACHINE)

# What is no matter of speed, or has no tensors: control flow, sequences, strings.
NOT_MEASURED = {
    "If", "Loop", "Scan", "OptionalGetElement", "OptionalHasElement", "TreeEnsemble",
    "CategoryMapper", "Gradient",
    # ONNX Runtime has them for GPUs alone, or not at all.
    "BitmaskBiasDropout", "BitmaskDropout", "NhwcFusedConv",
}
