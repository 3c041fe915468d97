"""Operators of one's own, from outside the package (docs/custom-operators.md).

    @naru.register_op("my.domain", "Mish2", meaning=mish2)
    def build(c, x, *, alpha=1.0): return c.op("Mul", x, c.op("Tanh", c.op("Softplus", x)))

    @naru.register_op("my.domain", "Twice", meaning=twice, kernel=LOOP_IR)
    def types(x): return x

The decorated function's own signature says what a node has: positional parameters are operands (one
with the default None may be left out, `*xs` is any number), keyword-only ones are attributes.
"""

from naru.custom.checking import check_op
from naru.custom.composition import Composer, Value
from naru.custom.kernel import Dim, Type
from naru.custom.registering import digest, register_op, unregister_op

__all__ = [
    "Composer",
    "Dim",
    "Type",
    "Value",
    "check_op",
    "digest",
    "register_op",
    "unregister_op",
]
