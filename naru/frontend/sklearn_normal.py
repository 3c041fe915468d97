"""The quantile function of the normal distribution, by M. J. Wichura's rational functions
(algorithm AS 241, Applied Statistics 37, 1988), which are right to about 16 digits."""

from __future__ import annotations

from collections.abc import Sequence

from naru.frontend.sklearn_base import add, div, mul, op, sub, where
from naru.ir.graph import Node

# Numerators and denominators, highest power first: near the middle, in the tails, far out.
MIDDLE = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4,
     4.5921953931549871457e4, 1.3731693765509461125e4, 1.9715909503065514427e3,
     1.3314166789178437745e2, 3.3871328727963666080e0),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4,
     2.1213794301586595867e4, 5.3941960214247511077e3, 6.8718700749205790830e2,
     4.2313330701600911252e1, 1.0),
)  # fmt: skip
TAIL = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
     1.27045825245236838258e0, 3.64784832476320460504e0, 5.76949722146069140550e0,
     4.63033784615654529590e0, 1.42343711074968357734e0),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2,
     1.48103976427480074590e-1, 6.89767334985100004550e-1, 1.67638483018380384940e0,
     2.05319162663775882187e0, 1.0),
)  # fmt: skip
FAR = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3,
     2.65321895265761230930e-2, 2.96560571828504891230e-1, 1.78482653991729133580e0,
     5.46378491116411436990e0, 6.65790464350110377720e0),
    (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5,
     7.86869131145613259100e-4, 1.48753612908506148525e-2, 1.36929880922735805310e-1,
     5.99832206555887937690e-1, 1.0),
)  # fmt: skip


def _ratio(x: Node, by: tuple[Sequence[float], Sequence[float]]) -> Node:
    return div(*(_polynomial(x, p) for p in by))


def _polynomial(x: Node, powers: Sequence[float]) -> Node:
    made = add(mul(x, powers[0]), powers[1])
    for p in powers[2:]:
        made = add(mul(made, x), p)
    return made


def normal_quantile(p: Node) -> Node:
    """x such that a normal variable is below it with probability p, in 0..1 without the ends."""
    q = sub(p, 0.5)
    middle = mul(q, _ratio(sub(0.180625, mul(q, q)), MIDDLE))
    tail = where(op("less", q, 0.0), p, sub(1.0, p))
    r = op("sqrt", op("neg", op("log", tail)))
    out = where(op("greater", r, 5.0), _ratio(sub(r, 5.0), FAR), _ratio(sub(r, 1.6), TAIL))
    signed = where(op("less", q, 0.0), op("neg", out), out)
    return where(op("less_or_equal", op("abs", q), 0.425), middle, signed)
