"""The normal form in which a schedule sees a TensorFunction: the result and the reductions it
needs."""

from __future__ import annotations

from naru.ir.tensor import TensorFunction
from naru.schedule.rewrites import (
    align_reductions,
    collapse_axes,
    drop_unit_dims,
    end_plainly,
    inline_stages,
    join_far_dims,
    name_axes,
    use_layouts,
)
from naru.schedule.split_axes import split_groups, split_phases
from naru.schedule.tile_rows import split_lines

# Order matters; each line is one rewrite.
PREPARE = (
    inline_stages,  # plain stages disappear into their readers
    end_plainly,  # accumulators live apart from the result
    use_layouts,  # tensors take their physical shape
    split_phases,  # of transposed convolutions: windows, and phases of one
    split_lines,  # of packed images: lines and pixels
    align_reductions,  # lanes lie next to each other in accumulators too
    split_groups,  # the filters of grouped convolutions: groups, and filters of one
    drop_unit_dims,
    collapse_axes,  # axes that always go together become one
    join_far_dims,  # to matrices that tiles are turned from
    name_axes,
)


def prepare(tf: TensorFunction) -> TensorFunction:
    """All of the above, in order."""
    for rewrite in PREPARE:
        tf = rewrite(tf)
    return tf
