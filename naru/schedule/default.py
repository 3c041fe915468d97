"""The schedule that a kernel gets without tuning: a small analytic model, no measurement.

Which loop runs in the lanes follows from how memory lies; which tile a contraction gets, from the
register file and from how many loads its multiply-adds need (as in oneDNN's brgemm blocking).
"""

from __future__ import annotations

from naru.ir.tensor import TensorFunction
from naru.schedule.algorithms import keep_terms
from naru.schedule.analysis import lanes_of
from naru.schedule.contraction import find_contraction, schedule_contraction
from naru.schedule.rows import row_steps, schedule_terms, turn_steps
from naru.schedule.steps import Schedule
from naru.schedule.tile_products import schedule_pack, schedule_tiles
from naru.schedule.tile_rows import find_tiles, is_pack
from naru.schedule.winograd import find_winograd
from naru.schedule.winograd_schedule import schedule_winograd
from naru.targets import Target


def default_schedule(
    tf: TensorFunction, target: Target, *, whole: bool = True
) -> tuple[TensorFunction, Schedule]:
    """The default for a prepared TensorFunction (see prepare.py) of one output: the function
    after the algorithm's rewrites, and the steps. `whole`: it is not the function of a region."""
    out = next(s for s in tf.stages if s.tensor in tf.outputs)
    reductions = [s for s in tf.stages if s.combine is not None]
    lanes = lanes_of(tf, target)
    tiled = find_winograd(tf)
    if tiled is not None:
        return schedule_winograd(tf, tiled, target, lanes)
    packed = find_tiles(tf)
    if packed is not None:
        return schedule_tiles(tf, packed, target, lanes)
    if is_pack(out):
        return tf, schedule_pack(out, lanes)
    if len(reductions) == 1:
        plan = find_contraction(out, reductions[0], lanes)
        if plan is not None:
            return schedule_contraction(tf, out, reductions[0], plan, target, lanes, whole=whole)
    for stage in reductions:
        found = keep_terms(tf, stage)
        if found is not None:
            return schedule_terms(*found, stage.tensor.name, lanes)
    if not reductions:
        steps = turn_steps(out, lanes)
        if steps is not None:
            return tf, Schedule(tuple(steps))
    return tf, Schedule(tuple(row_steps(out, [s for s in tf.stages if s is not out], lanes)))
