"""What holds of every loop-IR function, on random ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given

from naru.errors import IRError
from naru.ir.interp import run
from naru.ir.loop import Func
from naru.ir.text import print_func, read_func
from naru.ir.verify import verify_func
from tests.ir.programs import SIZE, functions
from tests.ir.strategies import DETERMINISTIC


def outcome(func: Func) -> Any:
    """The bytes that a run leaves behind, or the error."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=SIZE).astype(np.float32) for _ in range(2))
    z = rng.integers(-9, 9, (SIZE, 2), np.int32)
    try:
        run(func, [x, y, z, 3, 0.1])
    except IRError as e:
        return e.problems
    return x.tobytes(), y.tobytes(), z.tobytes()


@DETERMINISTIC
@given(functions())
def test_text_round_trip(func: Func) -> None:
    text = print_func(func)
    again = read_func(text)
    assert print_func(again) == text
    assert outcome(again) == outcome(func)


@DETERMINISTIC
@given(functions())
def test_generated_functions_are_well_formed(func: Func) -> None:
    assert verify_func(func) == []
