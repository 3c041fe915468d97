"""Images before a model: the graph from uint8 pixels to the tensor that the model takes.

First `plan_images` fits what is declared to the inputs of the file, and says which dims that fixes
(the batch is one image); then `image_input` makes the nodes. Everything is operators of the
registry, so that it is fused, scheduled and shown by `explain` like the rest of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ValueInfoProto

from naru.dtypes import FROM_ONNX
from naru.errors import nearest
from naru.ir.expr import Expr, Var
from naru.ir.graph import Attr, Node, TensorType, get_output, make_input
from naru.ir.simplify import add, compare, floordiv, index, known, maximum, mod, mul, select, sub
from naru.ops.registry import apply, constant
from naru.processing import COLORS, PIXELS, Image, Size

LARGEST = 65535  # pixels of an image's side: JPEG's limit
LUMA = (0.299, 0.587, 0.114)  # of red, green, blue in grey (ITU-R BT.601), as Pillow has it
_FLOATS = ("f32", "f16", "bf16", "f64")

Dim = int | str | None  # a size, a symbol, or neither


@dataclass(frozen=True)
class Plan:
    """How an image becomes the model's input of type `dtype` and `shape`. `size`: the height and
    width there, None where they are symbols; of shape [N, H · W · C], `layout` is that of H, W, C.
    """

    image: Image
    dtype: str
    shape: tuple[Dim, ...]
    layout: str
    colors: str
    size: Size | None

    @property
    def channels(self) -> int:
        return COLORS[self.colors]


def plan_images(
    g: GraphProto, images: Sequence[Image], problems: list[str]
) -> tuple[dict[str, Plan], dict[str, int]]:
    """Plans by input, and the sizes that they give to symbols of the file. What does not fit is
    added to `problems`."""
    weights = {t.name for t in g.initializer}
    inputs = {i.name: i for i in g.input if i.name not in weights}
    plans: dict[str, Plan] = {}
    fixed: dict[str, int] = {}
    for image in images:
        name = image.input or (next(iter(inputs)) if len(inputs) == 1 else "")
        info = inputs.get(name)
        if info is None:
            what = f"there is no input {name!r}" if name else "which input is the image?"
            meant = nearest(name, inputs) or f"the model has {', '.join(inputs)}"
            problems.append(f"image: {what}; {meant}")
            continue
        fit = _Fit(image, info)
        plan = fit.plan()
        if plan is not None and not fit.problems:
            plans[name] = plan
        for symbol, size in fit.fixed:
            if fixed.setdefault(symbol, size) != size:
                fit.problems.append(f"{symbol!r} would be {fixed[symbol]} and {size}")
        problems += [f"input {name!r}: {p}" for p in fit.problems]
    return plans, fixed


class _Fit:
    """Fits one declaration to one input; what does not fit goes to `problems`."""

    def __init__(self, image: Image, info: ValueInfoProto) -> None:
        self.image = image
        tensor = info.type.tensor_type
        self.dtype = FROM_ONNX.get(tensor.elem_type, "")
        self.dims: list[Dim] = [
            d.dim_value if d.HasField("dim_value") else d.dim_param or None
            for d in tensor.shape.dim
        ]
        self.problems: list[str] = []
        self.fixed: list[tuple[str, int]] = []

    def plan(self) -> Plan | None:
        """The plan, or None where not even that can be said."""
        image, dims = self.image, self.dims
        shape = f"[{', '.join('?' if d is None else str(d) for d in dims)}]"
        if self.dtype not in (*_FLOATS, "u8"):
            self.problems.append(f"expected floats or uint8, found {self.dtype or 'no tensor'}")
        flat = len(dims) == 2 and isinstance(image.resize, tuple)
        if len(dims) != 4 and not flat:
            hint = "; of rank 2: say resize=HxW" if len(dims) == 2 else ""
            self.problems.append(
                f"expected rank 4, [N, C, H, W] or [N, H, W, C], found {shape}{hint}"
            )
            return None
        self.fix(0, 1, "batch (one image at a time)")
        layout = image.layout or ("NCHW" if flat else self.layout(shape))
        if layout is None:
            return None
        colors = self.flat_colors() if flat else self.colors(layout)
        size = self.size(layout, flat)
        self.check_numbers(colors)
        return Plan(image, self.dtype, tuple(self.dims), layout, colors, size)

    def fix(self, axis: int, size: int, what: str) -> None:
        """A dim gets a size, or has it."""
        dim = self.dims[axis]
        if isinstance(dim, int) and dim != size:
            self.problems.append(f"{what}: expected {size}, found {dim}")
        if isinstance(dim, str):
            self.fixed.append((dim, size))
        self.dims[axis] = size

    def layout(self, shape: str) -> str | None:
        """Which axis has the channels."""
        counts = (COLORS[self.image.colors],) if self.image.colors else (1, 3)
        found = [n for n, axis in (("NCHW", 1), ("NHWC", 3)) if self.dims[axis] in counts]
        if len(found) == 1:
            return found[0]
        what = "both may be channels" if found else "neither axis 1 nor axis 3 has 1 or 3 elements"
        self.problems.append(f"{shape}: {what}; say layout=NCHW or layout=NHWC")
        return None

    def colors(self, layout: str) -> str:
        """What the channels are."""
        axis = 1 if layout == "NCHW" else 3
        count = self.dims[axis]
        colors = self.image.colors or ("grey" if count == 1 else "rgb")
        self.fix(axis, COLORS[colors], f"channels ({colors}, axis {axis})")
        return colors

    def flat_colors(self) -> str:
        """What the channels are, where height, width and channels are one axis."""
        pixels = math.prod(self.image.resize) if isinstance(self.image.resize, tuple) else 1
        colors = self.image.colors or ("rgb" if self.dims[1] == 3 * pixels else "grey")
        self.fix(1, pixels * COLORS[colors], f"elements ({pixels} pixels, {colors})")
        if COLORS[colors] == 3 and not self.image.layout:
            self.problems.append("in which order are its elements? say layout=NCHW or layout=NHWC")
        return colors

    def size(self, layout: str, flat: bool) -> Size | None:
        """Height and width of the model's input."""
        image = self.image
        said = image.resize if isinstance(image.resize, tuple) else image.crop
        at = (2, 3) if layout == "NCHW" else (1, 2)
        if said is not None:
            for axis, size in () if flat else zip(at, said, strict=True):
                self.fix(axis, size, "height" if axis == at[0] else "width")
            return said
        height, width = (self.dims[axis] for axis in at)
        if isinstance(height, int) and isinstance(width, int):
            if isinstance(image.resize, int) and max(height, width) > image.resize:
                self.problems.append(f"resize={image.resize} is less than its {height}x{width}")
            return height, width
        if image.resize != "none":
            way = "crop=" if isinstance(image.resize, int) else "resize=HxW"
            self.problems.append(f"its height and width are not fixed; say {way}…")
        return None

    def check_numbers(self, colors: str) -> None:
        """As many numbers as channels, and none where pixels stay what they are."""
        for name, values in (("mean", self.image.mean), ("std", self.image.std)):
            if len(values) == 3 and COLORS[colors] == 1:
                self.problems.append(f"{name}: 3 numbers, and it has 1 channel")
        if self.dtype == "u8" and (self.image.mean or self.image.std or self.image.range):
            self.problems.append("it takes uint8: range, mean and std would leave whole numbers")


# --- nodes ----------------------------------------------------------------------------------------


def _either(planned: Dim, declared: Expr) -> Expr:
    """The size that is planned, or else what the file declares."""
    return index(planned) if isinstance(planned, int) else declared


def _middle(rest: Expr) -> Expr:
    """Half of what is cut off; a half pixel goes to the even side, as Python's `round` has it, and
    so torchvision's CenterCrop."""
    half = floordiv(rest, 2)
    return add(half, mul(mod(rest, 2), mod(half, 2)))


Symbol = Callable[[str, int, int], Var]


class ImageInput:
    """The nodes from an input of pixels to what the model takes. `given` is the new input, `value`
    the result; `steps` say which step each node belongs to."""

    def __init__(self, name: str, plan: Plan, wanted: TensorType, symbol: Symbol) -> None:
        self.plan, self.image = plan, plan.image
        wanted = TensorType(plan.dtype, tuple(map(_either, plan.shape, wanted.shape)))
        self.steps: dict[Node, str] = {}
        height, width = self._given_size(wanted, symbol)
        channels = PIXELS[self.image.pixels]
        shape = (height, width) if channels == 1 else (height, width, index(channels))
        self.given = make_input(name, TensorType("u8", shape))
        self.height, self.width = height, width
        x = self.emit("layout", "reshape", self.given, shape=(height, width, channels))
        x = self._resized(self._blended(x))
        # Neighbours then share a channel, and vectors its numbers.
        self.planar = plan.layout != "NHWC" or plan.channels == 1
        if self.planar:
            x = self.emit("layout", "transpose", x, perm=(2, 0, 1))
        self.value = self._arranged(self._scaled(self._colored(x)), wanted)

    def emit(self, step: str, op: str, *inputs: Node, **attrs: Attr) -> Node:
        """A node of a step."""
        made = apply(op, *inputs, **attrs)
        self.steps.setdefault(made, step)
        return made

    def _given_size(self, wanted: TensorType, symbol: Symbol) -> tuple[Expr, Expr]:
        """Height and width of the pixels."""
        if self.image.resize != "none":
            return symbol("height", 1, LARGEST), symbol("width", 1, LARGEST)
        if self.plan.layout == "NHWC":
            return wanted.shape[1], wanted.shape[2]
        return wanted.shape[2], wanted.shape[3]

    def _blended(self, x: Node) -> Node:
        """Over the background, as far as pixels are transparent."""
        if self.image.background is None:
            return x
        x = self.emit("blend", "cast", x, to="f32")
        alpha = self.emit("blend", "slice", x, starts=(3,), ends=(4,), axes=(2,))
        alpha = self.emit("blend", "mul", alpha, constant(1 / 255))
        below = constant(self.image.background)
        above = self.emit("blend", "slice", x, starts=(0,), ends=(3,), axes=(2,))
        above = self.emit("blend", "sub", above, below)
        return self.emit("blend", "add", self.emit("blend", "mul", above, alpha), below)

    def _resized(self, x: Node) -> Node:
        """At the model's size, f32."""
        if self.image.resize == "none":
            return x if x.type.dtype == "f32" else self.emit("resize", "cast", x, to="f32")
        assert self.plan.size is not None
        rows, columns = self.plan.size
        if isinstance(self.image.resize, int):
            scaled = self._shorter_side(self.image.resize)
            offset = tuple(_middle(sub(s, n)) for s, n in zip(scaled, (rows, columns), strict=True))
            return self._resampled(x, scaled, offset, (index(rows), index(columns)))
        if not self.image.letterbox:
            size = index(rows), index(columns)
            return self._resampled(x, size, (index(0), index(0)), size)
        scaled = self._inside(rows, columns)
        x = self._resampled(x, scaled, (index(0), index(0)), scaled)
        top, left = (floordiv(sub(n, s), 2) for s, n in zip(scaled, (rows, columns), strict=True))
        below, right = sub(sub(rows, scaled[0]), top), sub(sub(columns, scaled[1]), left)
        pads = (top, left, index(0), below, right, index(0))
        return self.emit("letterbox", "pad", x, pads=pads, mode="constant", value=self.image.fill)

    def _shorter_side(self, size: int) -> tuple[Expr, Expr]:
        """Height and width when the shorter one is `size`; the longer one is rounded down."""
        upright = compare("ge", self.height, self.width)
        return (
            select(upright, floordiv(mul(size, self.height), self.width), index(size)),
            select(upright, index(size), floordiv(mul(size, self.width), self.height)),
        )

    def _inside(self, rows: int, columns: int) -> tuple[Expr, Expr]:
        """The largest height and width of the same ratio, to the nearest pixel."""

        def rounded(size: int, side: Expr, by: Expr) -> Expr:
            return maximum(floordiv(add(mul(2 * size, side), by), mul(2, by)), 1)

        wide = compare("le", mul(self.height, columns), mul(self.width, rows))
        return (
            select(wide, rounded(columns, self.height, self.width), index(rows)),
            select(wide, index(columns), rounded(rows, self.width, self.height)),
        )

    def _resampled(
        self, x: Node, scaled: Sequence[Expr], offset: Sequence[Expr], count: Sequence[Expr]
    ) -> Node:
        """`count` rows and columns from `offset` on of the image scaled to a size."""
        channels = known(x.type.shape[2]) or 1
        flat = self.emit("resize", "reshape", x, shape=(self.height, mul(self.width, channels)))
        taps: list[Node] = []
        for k, size in enumerate((self.height, self.width)):
            found = self.emit(
                "resize", "filter_taps", flat, size=size, scaled=scaled[k], offset=offset[k],
                count=count[k], filter=self.image.filter, antialias=self.image.antialias,
            )  # fmt: skip
            taps += [get_output(found, 0), get_output(found, 1)]
        y = self.emit("resize", "resize_image", flat, *taps, channels=channels)
        y = self.emit("resize", "reshape", get_output(y, 0), shape=(*count, channels))
        if self.image.filter == "bicubic":  # it overshoots at edges
            y = self.emit("resize", "clip", y, constant(0.0), constant(255.0))
        return y

    def _colored(self, x: Node) -> Node:
        """The channels that the model wants."""
        axis = 0 if self.planar else 2
        given, colors = known(x.type.shape[axis]), self.plan.colors
        if given == 4:
            x = self.emit("colors", "slice", x, starts=(0,), ends=(3,), axes=(axis,))
        if colors == "grey" and given != 1:
            parts = self.emit("colors", "mul", x, self._numbers(LUMA, x))
            return self.emit("colors", "reduce_sum", parts, axes=(axis,), keepdims=True)
        if given == 1 and colors != "grey":
            shape = tuple(3 if k == axis else d for k, d in enumerate(x.type.shape))
            return self.emit("colors", "expand", x, shape=shape)
        if colors == "bgr":
            back = {"starts": (2,), "ends": (-4,), "axes": (axis,), "steps": (-1,)}
            return self.emit("colors", "slice", x, **back)
        return x

    def _numbers(self, values: Sequence[float] | np.ndarray, x: Node) -> Node:
        """One number, or one a channel, as they meet x."""
        numbers = np.asarray(values)
        if self.planar:
            return constant(numbers.reshape(-1, 1, 1))
        width = known(x.type.shape[1])
        if len(numbers) == 1 or width is None:
            return constant(numbers)
        return constant(np.tile(numbers, (width, 1)))  # a whole line: vectors cross pixels

    def _scaled(self, x: Node) -> Node:
        """((255 - x or x) / 255 · range - mean) / std, as one product and one sum."""
        image = self.image
        low, high = image.range or ((0.0, 255.0) if self.plan.dtype == "u8" else (0.0, 1.0))
        std = np.array(image.std or (1.0,))
        factor = (high - low) / 255 / std
        shift = (low - np.array(image.mean or (0.0,))) / std
        if image.invert:
            factor, shift = -factor, shift + (high - low) / std
        if (factor != 1).any():
            x = self.emit("normalize", "mul", x, self._numbers(factor, x))
        return self.emit("normalize", "add", x, self._numbers(shift, x)) if shift.any() else x

    def _arranged(self, x: Node, wanted: TensorType) -> Node:
        """In the model's layout and dtype."""
        x = self.emit("layout", "reshape", x, shape=wanted.shape)
        if wanted.dtype == "u8":
            x = self.emit("layout", "round", x)
            x = self.emit("layout", "clip", x, constant(0.0), constant(255.0))
        if wanted.dtype != x.type.dtype:
            x = self.emit("layout", "cast", x, to=wanted.dtype)
        return x
