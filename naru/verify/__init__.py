"""`naru verify`: how far a model is from ONNX Runtime, or from the reference in float64, and where
it begins to differ.

    differences.py  one output against what it should be
    sides.py        whom a model is compared with
    compared.py     samples through a model and its sides
    parts.py        some nodes of a model as a model of their own
    search.py       the first node that differs, and the smallest part that does
    script.py       that part as a script for a bug report
"""

from naru.verify.compared import Compared, verify
from naru.verify.differences import DEFAULT_TOLERANCE, Difference, compare

__all__ = ["DEFAULT_TOLERANCE", "Compared", "Difference", "compare", "verify"]
