"""Models that run partly on the host: against ONNX Runtime where it has the operators, and with
everything that can be wrong with values from outside and with plans."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import parser
from PIL import Image

import naru
from naru.artifact.bundle import (
    make_bundle,
    read_bundle,
)
from naru.cli import main
from naru.errors import BundleError, InputError, ModelError, NaruError, RunError, UnsupportedError
from naru.frontend import onnx_plan, sklearn
from naru.frontend.onnx_host import ALWAYS, CONTROL, SOMETIMES
from naru.frontend.onnx_node import Unsupported
from naru.frontend.onnx_watch import watch
from naru.frontend.re2 import to_python
from naru.runtime import plan
from naru.runtime.host import HostModel
from naru.runtime.host_operators import ATTRIBUTES, OPERATORS
from naru.runtime.session import open_model
from tests.fuzz.bundle_mutations import edit_json

HEAD = '<ir_version: 8, opset_import: ["": 21, "ai.onnx.ml": 3, "com.microsoft": 1]>\n'


def model_of(text: str) -> onnx.ModelProto:
    return parser.parse_model(HEAD + text)


def compiled(text: str) -> HostModel:
    model = naru.compile(model_of(text), cache=False)
    assert isinstance(model, HostModel)
    return model


def texts(*values: str) -> np.ndarray:
    return np.array(values, dtype=object)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# (what it shows, the graph, its inputs)
CASES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (
        "a sequence from outside, changed",
        """g (seq(float[N]) s, float[N] x, int64 i) => (seq(float[N]) t, float[N] y, int64 n) {
            a = SequenceInsert(s, x, i)
            e = SequenceErase(a)
            t = SequenceInsert(e, x)
            y = SequenceAt(t, i)
            n = SequenceLength(t)
        }""",
        {"s": [floats(3), floats(3, seed=1)], "x": floats(3, seed=2), "i": np.array(-1)},
    ),
    (
        "native parts between steps",
        """g (seq(float[N,2]) s, float[N,2] x) => (float[M,2] y, float[N,2] z) {
            zero = Constant<value_int=0>()
            first = SequenceAt(s, zero)
            sum = Add(first, x)
            z = Relu(sum)
            t = SequenceInsert(s, z)
            joined = ConcatFromSequence<axis=0>(t)
            y = Mul(joined, joined)
        }""",
        {"s": [floats(3, 2), floats(3, 2, seed=1)], "x": floats(3, 2, seed=2)},
    ),
    (
        "a list that a loop makes",
        """g (float[N,2] x, int64 n) => (float[K,N,2] y, float[K,2] sums) {
            go = Constant<value = bool {1}>()
            empty = SequenceEmpty()
            s, sums = Loop(n, go, empty) <body: graph = b
                (int64 i, bool c, seq(float[N,2]) before)
                => (bool more, seq(float[N,2]) after, float[2] sum) {
                more = Identity(c)
                f = Cast<to=1>(i)
                scaled = Mul(x, f)
                axes = Constant<value_ints=[0]>()
                sum = ReduceSum<keepdims=0>(scaled, axes)
                after = SequenceInsert(before, scaled)
            }>
            y = ConcatFromSequence<axis=0, new_axis=1>(s)
        }""",
        {"x": floats(3, 2), "n": np.array(4)},
    ),
    (
        "a branch that gives sequences",
        """g (bool c, float[4] x) => (int64 n) {
            s = If(c) <then_branch: graph = t () => (seq(float[4]) p) {
                y = Relu(x)
                p = SequenceConstruct(x, y)
            }, else_branch: graph = e () => (seq(float[4]) q) {
                q = SequenceConstruct(x)
            }>
            n = SequenceLength(s)
        }""",
        {"c": np.array(True), "x": floats(4)},
    ),
    (
        "pieces of a size that data tell",
        """g (float[N,6] x, int64[K] sizes) => (seq(float[N,?]) s) {
            s = SplitToSequence<axis=1>(x, sizes)
        }""",
        {"x": floats(2, 6), "sizes": np.array([1, 3, 2])},
    ),
    (
        "texts joined and split",
        """g (string[N] a, string[1] b) => (string[N,K] s, int64[N] n) {
            ab = StringConcat(a, b)
            s, n = StringSplit<delimiter=".">(ab)
        }""",
        {"a": texts("x.y", "", "ü.日本"), "b": texts(".end")},
    ),
    (
        "texts matched, moved and compared by native code",
        """g (string[N] a) => (bool[N] m, string[N,2] both, bool[N] same) {
            m = RegexFullMatch<pattern="[a-z]+[0-9]?">(a)
            k = Constant<value_strings=["cat", "dog"]>()
            n = Shape(a)
            two = Constant<value_ints=[2]>()
            nk = Concat<axis=0>(n, two)
            both = Expand(k, nk)
            axes = Constant<value_ints=[1]>()
            col = Unsqueeze(a, axes)
            word = Constant<value_string="cat">()
            same = Equal(a, word)
        }""",
        {"a": texts("cat", "dog7", "Cat")},
    ),
    (
        "words of a sentence",
        """g (string[C] a) => (string[K] b) {
            b = StringNormalizer<case_change_action="UPPER", is_case_sensitive=0,
                                 stopwords=["monday", "Tuesday"], locale="C">(a)
        }""",
        {"a": texts("Monday", "tuesday", "wednesday", "monday")},
    ),
    (
        "a classifier with names",
        """g (float[N,2] x) => (string[N] label, seq(map(string, float)) scores) {
            label, p = ai.onnx.ml.LinearClassifier<coefficients=[1.0, 2.0, -1.0, 0.5, 0.1, 0.2],
                intercepts=[0.0, 0.1, 0.2], classlabels_strings=["a", "b", "c"],
                post_transform="SOFTMAX">(x)
            scores = ai.onnx.ml.ZipMap<classlabels_strings=["a", "b", "c"]>(p)
        }""",
        {"x": floats(5, 2)},
    ),
    (
        "labels to numbers and back",
        """g (string[N] a) => (int64[N] n, string[N] back, float[N,3] hot) {
            n = ai.onnx.ml.LabelEncoder<keys_strings=["a", "b"], values_int64s=[3, 4],
                                        default_int64=-7>(a)
            back = ai.onnx.ml.LabelEncoder<keys_int64s=[3, 4], values_strings=["A", "B"]>(n)
            hot = ai.onnx.ml.OneHotEncoder<cats_strings=["b", "x", "a"]>(a)
        }""",
        {"a": texts("b", "zzz", "a")},
    ),
    (
        "categories",
        """g (string[N] a, int64[N] i) => (int64[N] n, string[N] s) {
            n = ai.onnx.ml.CategoryMapper<cats_int64s=[5, 6], cats_strings=["a", "b"]>(a)
            s = ai.onnx.ml.CategoryMapper<cats_int64s=[5, 6], cats_strings=["a", "b"],
                                          default_string="none">(i)
        }""",
        {"a": texts("b", "q"), "i": np.array([6, 9])},
    ),
    (
        "n-grams of words",
        """g (string[C] a) => (float[3] y) {
            y = TfIdfVectorizer<mode="TF", min_gram_length=1, max_gram_length=2, max_skip_count=0,
                ngram_counts=[0, 2], ngram_indexes=[0, 1, 2],
                pool_strings=["the", "cat", "the", "cat"]>(a)
        }""",
        {"a": texts("the", "cat", "sat", "the", "cat")},
    ),
    (
        "a branch of texts",
        """g (bool c, string[N] a) => (string[N] b) {
            d = If(c) <then_branch: graph = t () => (string[1] p) {
                p = Constant<value_strings=["yes"]>()
            }, else_branch: graph = e () => (string[1] q) {
                q = Constant<value_strings=["no"]>()
            }>
            b = Where(c, d, a)
        }""",
        {"c": np.array(True), "a": texts("x")},
    ),
    (
        "different texts in order",
        """g (string[N] a) => (string[K] u, int64[K] first, int64[N] inverse, int64[K] counts) {
            u, first, inverse, counts = Unique(a)
        }""",
        {"a": texts("pear", "apple", "pear", "fig")},
    ),
    (
        "numbers in texts",
        """g (string[N] a) => (float[N] f, int64[N] t) {
            f = Cast<to=1>(a)
            t = Cast<to=7>(f)
        }""",
        {"a": texts("1.5", "-2e3", "7")},
    ),
)


def run_rival(text: str, inputs: dict[str, Any]) -> list[Any]:
    session = ort.InferenceSession(model_of(text).SerializeToString())
    return list(session.run(None, inputs))


def assert_same(got: Any, want: Any) -> None:
    if isinstance(want, list):
        assert isinstance(got, list)
        assert len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            assert_same(g, w)
    elif isinstance(want, dict):
        assert got.keys() == want.keys()
        np.testing.assert_allclose(list(got.values()), list(want.values()), rtol=1e-6)
    else:
        assert got.shape == want.shape
        if want.dtype.kind in "OU":
            assert got.tolist() == want.tolist()
        else:
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("text", "inputs"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_against_onnxruntime(text: str, inputs: dict[str, Any], tmp_path: Path) -> None:
    model = compiled(text)
    want = run_rival(text, inputs)
    many = len(model.outputs) > 1
    model.save(tmp_path / "m.naru")
    for m in (model, naru.load(tmp_path / "m.naru"), pickle.loads(pickle.dumps(model))):
        got = m(**inputs)
        assert_same(list(got) if many else [got], want)
    steps = model.profile(**inputs, repeat=2)
    assert all(s.ns >= 0 for s in steps)


def test_a_loop_without_a_round_and_an_empty_sequence() -> None:
    model = compiled(CASES[2][1].replace("y = ConcatFromSequence<axis=0, new_axis=1>(s)",
                                         "y = Constant<value_floats=[1.0]>()"
                                         ).replace("float[K,N,2] y", "float[1] y"))  # fmt: skip
    assert model(floats(3, 2), np.array(0)).sums.shape == (0, 2)
    joined = compiled(CASES[2][1])
    with pytest.raises(
        RunError, match=r"step 'y' \(ConcatFromSequence\): expected a sequence with"
    ):
        joined(floats(3, 2), np.array(0))


def test_optional_values() -> None:
    model = compiled("""g (optional(float[N]) x) => (bool b, float[N] y) {
        b = OptionalHasElement(x)
        y = OptionalGetElement(x)
    }""")
    found = model(floats(3))
    assert found.b
    np.testing.assert_array_equal(found.y, floats(3))
    with pytest.raises(RunError, match="expected a value, got an optional without one"):
        model(None)


TYPES = {2: "uint8", 7: "int64", 9: "bool", 11: "double"}
PATTERNS = (
    r"\d+|a\sb", r"\w+", r"\W*", r"[[:alpha:]]+", r"[^[:^digit:]a-c]+", r"\pN+", r"\p{Lu}|\p{^L}",
    r"[\PL\d]*", r"a\Q.b*\E?", r"a\z", "a$", "a$\n", "(?m)a$\n^b$", "(?s).+", ".+", r"\B",
    r"\bab\b", "(?i)[k-s]+", r"(?i)\W", "(?i:ß)", "(?i)\u0131", "a{,2}", "(?:a|b*)*", "(?U)a+?",
    "^*a|(?P<x>b)(?i)+", r"\x{61}[\x61-\143]*", "[]a-]*", "",
)  # fmt: skip
LIKE = (
    "", "3", "\u0663", "a b", "a\u00a0b", "a\nb", "a\n", "a", "A", "aa", "ab", "a.b", "b", "k", "K",
    "\u212a", "\u017f", "ß", "ẞ", "i", "\u0131", "İ", "é", "-", "]", "a{,2}", "\x0b", "½", "\0",
)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_mean_what_they_do_in_re2(pattern: str) -> None:
    model = model_of('g (string[N] s) => (bool[N] y) { y = RegexFullMatch<pattern="">(s) }')
    model.graph.node[0].attribute[0].s = pattern.encode()
    found = naru.compile(model, cache=False)(texts(*LIKE))
    session: Any = ort.InferenceSession(model.SerializeToString())
    (expected,) = session.run(None, {"s": texts(*LIKE)})
    assert [t for t, a, b in zip(LIKE, found, expected, strict=True) if a != b] == []


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(?=x)x", "no look-around"), (r"(x)\1", "no back-references"), ("a++", "no possessive"),
     ("(?>a)", "atomic groups"), (r"\Z", "does not know"), ("[[:foo:]]", "is no class"),
     ("[b-a]", "a range"), ("[a", "] is missing"), ("(a", r"a \) is"), ("a)", r"a \( is"),
     ("*a", "nothing to repeat"), ("(a{40}){40}", "at most 1000 times"), ("a{2,1}", "repeats"),
     (r"\p{Greek}", "the characters 'Greek'"), (r"\C", "single byte"), (r"\p", "expected"),
     ("(" * 900 + ")" * 900, "beyond Python's re")],
)  # fmt: skip
def test_patterns_that_are_refused(pattern: str, message: str) -> None:
    with pytest.raises((ModelError, Unsupported), match=message):
        to_python(pattern)


def test_casts_like_another_operand() -> None:
    """(ONNX Runtime has them only as a function, which knows no strings.)"""
    model = compiled("""g (string[N] a, float[M] f) => (float[N] x, string[M] s) {
        x = CastLike(a, f)
        s = CastLike(f, a)
    }""")
    found = model(texts("1.5", "-2"), np.array([0.5, 3], np.float32))
    np.testing.assert_array_equal(found.x, np.array([1.5, -2], np.float32))
    assert found.s.tolist() == ["0.5", "3.0"]


@pytest.mark.parametrize(
    ("to", "given", "expected"),
    [(7, ["100.5", "-1.9", "1e3", " 7", "9007199254740993.5"], [100, -1, 1000, 7, 2**53 + 1]),
     (2, ["255.9", "-0.5", "3"], [255, 0, 3]),
     (11, ["1E8", ".5", "-5.", "+inf", "-INF"], [1e8, 0.5, -5.0, np.inf, -np.inf]),
     (9, ["True", "false", "0.0", "2"], [True, False, False, True])],
)  # fmt: skip
def test_texts_are_plain_and_scientific_numbers(to: int, given: Any, expected: Any) -> None:
    model = compiled(f"g (string[N] s) => ({TYPES[to]}[N] y) {{ y = Cast<to={to}>(s) }}")
    assert model(texts(*given)).tolist() == expected


@pytest.mark.parametrize(
    ("to", "text"),
    [(7, "1_000"), (11, "1_000"), (11, "\u0663"), (7, "1e999999999"), (7, "NaN"), (7, "x"),
     (2, "256"), (2, "-1.0"), (7, "inf"), (9, "x")],
)  # fmt: skip
def test_texts_that_are_no_numbers(to: int, text: str) -> None:
    model = compiled(f"g (string[N] s) => ({TYPES[to]}[N] y) {{ y = Cast<to={to}>(s) }}")
    with pytest.raises(RunError, match="a text is no "):
        model(texts("1.5", text))


def test_maps() -> None:
    model = compiled("""g (map(int64, float) m) => (float[1,3] y) {
        y = ai.onnx.ml.CastMap<cast_to="TO_FLOAT", map_form="SPARSE", max_map=3>(m)
    }""")
    np.testing.assert_array_equal(model({2: 1.5, 0: 1.0}), [[1.0, 0.0, 1.5]])
    words = compiled("""g (map(string, float) m) => (float[1,2] y) {
        y = ai.onnx.ml.DictVectorizer<string_vocabulary=["b", "a"]>(m)
    }""")
    np.testing.assert_array_equal(words({"a": 2.0}), [[0.0, 2.0]])
    with pytest.raises(InputError, match="input 'm': expected a dict, got list"):
        words([1])
    counts = compiled("""g (map(string, int64) m) => (int64[1,1] y) {
        y = ai.onnx.ml.DictVectorizer<string_vocabulary=["a"]>(m)
    }""")
    with pytest.raises(RunError, match="its operands do not fit it"):
        counts({"a": 2**70})


def test_pieces_whose_sizes_only_data_tell() -> None:
    model = compiled("""g (float[N] x, int64[K] sizes) => (float[N] y, float[M] last) {
        s = SplitToSequence(x, sizes)
        y = ConcatFromSequence<axis=0>(s)
        end = Constant<value_int=-1>()
        last = SequenceAt(s, end)
    }""")
    x = floats(6)
    got = model(x, np.array([1, 0, 3, 2]))
    np.testing.assert_array_equal(got.y, x)
    np.testing.assert_array_equal(got.last, x[4:])


def test_steps_that_run_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(call: object) -> Any:
        raise MemoryError

    model = compiled("g (string[N] x) => (string[N] y) { y = StringConcat(x, x) }")
    monkeypatch.setitem(cast("dict[str, Any]", OPERATORS), "StringConcat", fail)
    with pytest.raises(RunError, match=r"step 'y' \(StringConcat\): there is not enough memory"):
        model(texts("a"))


def test_images_that_are_damaged() -> None:
    model = compiled("g (uint8[N] x) => (uint8[H,W,3] y) { y = ImageDecoder(x) }")
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    whole = np.frombuffer(file.getvalue(), np.uint8).copy()
    np.testing.assert_array_equal(model(whole), noise)
    whole[file.getvalue().index(b"IDAT") - 1] -= 40  # a chunk that ends too early
    with pytest.raises(RunError, match="no image that can be read"):
        model(whole)


# What a model begins with whose graph calls functions.
CALLS = '<ir_version: 10, opset_import: ["": 21, "f": 1]>\ng (string[N] x) => (string[N] y) '


def function_of(opset: int, name: str, body: str) -> str:
    opsets = f'opset_import: ["": {opset}, "ai.onnx.ml": 3, "f": 1]'
    return f'\n<domain: "f", {opsets}>\n{name} (a) => (b) {{ {body} }}'


def test_functions_of_another_opset() -> None:
    call = CALLS + "{ y = f.Twice(x) }"
    source = parser.parse_model(call + function_of(20, "Twice", "b = StringConcat(a, a)"))
    model = naru.compile(source, cache=False)
    assert model(texts("a", "b")).tolist() == ["aa", "bb"]
    # Nothing converts what an operator was before there was one.
    source = parser.parse_model(call + function_of(6, "Twice", "b = StringConcat(a, a)"))
    with pytest.raises(UnsupportedError, match=r"function f\.Twice: .* of opset 6, .* opset 21"):
        naru.compile(source, cache=False)
    (problem,) = watch(source.SerializeToString()).problems
    assert problem.reason.startswith("function f.Twice: ")


def test_functions_bring_their_domains() -> None:
    body = 'b = ai.onnx.ml.LabelEncoder<keys_strings=["a"], values_strings=["c"]>(a)'
    source = parser.parse_model(CALLS + "{ y = f.Encode(x) }" + function_of(21, "Encode", body))
    assert naru.compile(source, cache=False)(texts("a")).tolist() == ["c"]


def test_functions_that_become_too_many_nodes() -> None:
    doubling = "".join(
        function_of(21, f"F{k}", f"t = f.F{k + 1}(a)\n b = f.F{k + 1}(t)") for k in range(24)
    )
    last = function_of(21, "F24", "b = StringConcat(a, a)")
    source = parser.parse_model(CALLS + "{ y = f.F0(x) }" + doubling + last)
    with pytest.raises(ModelError, match="gives more than 500000 nodes"):
        naru.compile(source, cache=False)
    again = function_of(21, "F", "t = StringConcat(a, a)\n b = f.F(t)")
    with pytest.raises(ModelError, match="cannot be inlined"):
        naru.compile(parser.parse_model(CALLS + "{ y = f.F(x) }" + again), cache=False)


def test_loops_that_find_their_kinds_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = """g (float[2] x, int64 n) => (int64 y) {
        s = SequenceEmpty()
        t = Loop(n, , s) <body = b (int64 i, bool go, p) => (bool more, q) {
            more = Identity(go)
            q = SequenceInsert(p, x)
        }>
        y = SequenceLength(t)
    }"""
    assert compiled(loop)(floats(2), np.array(3)) == 3
    monkeypatch.setattr(onnx_plan, "MOST_ROUNDS", 0)
    with pytest.raises(UnsupportedError, match="change their kinds more than 0 times"):
        compiled(loop)


def test_constants_are_fetched_once() -> None:
    plan = onnx_plan.read_plan(
        model_of("""g (string[N] x) => (string[N] y, string[1] c) {
        c = Constant<value_strings=["a"]>()
        a = StringConcat(x, c)
        y = StringConcat(a, c)
    }""")
    )
    assert plan is not None
    assert [s.operator for s in plan.body.steps] == ["constant", "StringConcat", "StringConcat"]


def test_what_a_loop_collects_natively_stays_native() -> None:
    """Sequences of known length are no host's business."""
    model = naru.compile(
        model_of("""g (float[N,6] x, int64 i) => (float[N,6] y, float[N,2] z, int64 n) {
            k = Constant<value_ints=[2, 2, 2]>()
            s = SplitToSequence<axis=1>(x, k)
            m = SequenceMap(s) <body: graph = b (float[N,2] a) => (float[N,2] o) { o = Relu(a) }>
            y = ConcatFromSequence<axis=1>(m)
            z = SequenceAt(m, i)
            n = SequenceLength(s)
        }"""),
        cache=False,
    )
    assert not isinstance(model, HostModel)
    x = floats(3, 6)
    found = model(x, np.array(-1))
    np.testing.assert_array_equal(found.y, np.maximum(x, 0))
    np.testing.assert_array_equal(found.z, np.maximum(x, 0)[:, 4:])
    assert found.n == 3


def test_wrong_inputs() -> None:
    model = compiled(CASES[0][1])
    for values, message in (
        ((floats(3), floats(3), 0), "input 's': expected a list, got ndarray"),
        (([floats(3).astype(float)], floats(3), 0), r"input 's\[0\]': expected dtype float32"),
        (([floats(3, 1)], floats(3), 0), r"input 's\[0\]': expected 1 dims, got \(3, 1\)"),
        (([floats(3)], floats(3, 1), 0), r"input 'x': expected 1 dims, got \(3, 1\)"),
        (([floats(3)],), "inputs 'x', 'i' are missing|input 'x', 'i' are missing"),
    ):
        with pytest.raises(InputError, match=message):
            model(*values)
    with pytest.raises(RunError, match=r"step 'a' \(SequenceInsert\): position 5 is outside"):
        model([floats(3)], floats(3), np.array(5))
    words = compiled(CASES[5][1])
    for value, message in (
        (np.array([1]), "expected texts, as in"),
        ([1, 2], "expected texts, got int"),
        (texts("a").reshape(1, 1), r"expected 1 dims, got \(1, 1\)"),
    ):
        with pytest.raises(InputError, match=message):
            words(value, texts("b"))
    with pytest.raises(RunError, match=r"step 'f' \(Cast\): a text is no float32"):
        compiled(CASES[14][1])(texts("seven"))


BAD = (
    ("g (seq(float[N]) s) => (float[N] y) { y = Add(s, s) }", "native code reads it"),
    ("g (seq(float[]) s, int64 i) => (float[N] y) { a = SequenceAt(s, i)\n y = Relu(a) }",
     "native code reads it, and it is f32 of unknown rank"),
    ('g (string[N] s) => (bool[N] y) { y = RegexFullMatch<pattern="[">(s) }', "is no pattern"),
    ("g (float[N] s) => (string[N] y) { y = StringConcat(s, s) }", "expected string, found float"),
    ("g (seq(float[N]) s) => (float[N] y) { i = Constant<value_float=1.0>()\n"
     " y = SequenceAt(s, i) }", "operand 1: expected whole numbers"),
    ("g (seq(float[N]) s) => (float[N] y) { y = ConcatFromSequence(s) }", "attribute 'axis'"),
    ("g (seq(float[N]) s) => (float[N] y) { y = SequenceAt(s, q) }", "a value called 'q'"),
    ("g (seq(float[N]) s) => (float[N] y) { z = SequenceLength(s) }", "the output 'y'"),
    ("g (seq(float[N]) s) => (float n) { n = SequenceLength(s) }", "declared as f32"),
    ("g (float[N] x, seq(float[N]) s) => (seq(float[N]) t) {\n"
     " a = Foo(x)\n t = SequenceInsert(s, a) }", "has no Foo"),
    ("g (string[N] s, string[N] s) => (string[N] t) { t = StringConcat(s, s) }", "defined twice"),
    ("g (seq(float[N]) s) => (seq(float[N]) t) {\n"
     " t = SequenceMap(s) <body = m (float[N] e) => (o) { o = Identity(s) }> }",
     "expected tensors as results of the body, found sequence"),
    ("g (seq(float[N]) s) => (seq(float[N]) t) {\n"
     " t = SequenceMap(s) <body = m (float[N] e) => (o, p) { o = Neg(e)\n p = Neg(e) }> }",
     "expected 1 outputs of the body, found 2"),
)  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD)
def test_bad_models(text: str, message: str) -> None:
    with pytest.raises((ModelError, UnsupportedError), match=message):
        naru.compile(model_of(text), cache=False)


def test_what_is_read_is_what_is_run() -> None:
    """Each operator has rules for reading and a meaning, under one name."""
    read = {op for _, op in (*ALWAYS, *SOMETIMES)}
    assert {*read, sklearn.CHECK} == set(OPERATORS)
    assert set(ATTRIBUTES) <= set(OPERATORS)
    assert set(CONTROL) == set(plan.CONTROL)
    assert (onnx_plan.NATIVE, onnx_plan.CONSTANT) == (plan.NATIVE, plan.CONSTANT)


def test_any_name_is_a_name() -> None:
    """Also one with quotes."""
    model = model_of("g (string[N] a) => (string[N] b) { b = StringConcat(a, a) }")
    name = 'it\'s "a"'
    model.graph.input[0].name = name
    model.graph.node[0].input[:] = [name, name]
    assert naru.compile(model, cache=False)(texts("x")).tolist() == ["xx"]


@pytest.mark.parametrize("start", range(0, 300, 100))
def test_damaged_plans(start: int) -> None:
    """Whatever a manifest says, it is refused, or runs, or fails with an error of ours."""
    bundles = [compiled(CASES[k][1])._bundle for k in (1, 2, 5)]
    for seed in range(start, start + 100):
        rng = Random(seed)
        case = (1, 2, 5)[seed % 3]
        bundle = bundles[seed % 3]
        manifest = copy.deepcopy(bundle.manifest)
        del manifest["sections"]
        for _ in range(rng.choice((1, 2))):
            edit_json(manifest["host"], rng)
        parts = {name: bytes(bundle.section(name)) for name in bundle.sections}
        try:
            open_model(make_bundle(manifest, parts))(**CASES[case][2])
        except NaruError:
            continue


def test_bundles_of_the_future_are_refused() -> None:
    bundle = compiled(CASES[0][1])._bundle
    manifest = {k: v for k, v in bundle.manifest.items() if k != "sections"}
    parts = {name: bytes(bundle.section(name)) for name in bundle.sections}
    assert manifest["needs"] == ["host"]
    assert read_bundle(bytes(bundle.data)).entries == ()
    with pytest.raises(BundleError, match=r"\$\.host\.steps\[0\]\.operator: expected an operator"):
        open_model(make_bundle(_with_operator(manifest, "Teleport"), parts))


def _with_operator(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    changed = copy.deepcopy(manifest)
    changed["host"]["steps"][0]["operator"] = name
    return changed


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*args: object) -> tuple[int, str]:
        code = main([str(a) for a in args])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    source, bundle = tmp_path / "m.onnx", tmp_path / "m.naru"
    onnx.save(model_of(CASES[8][1]), source)
    np.save(tmp_path / "x.npy", floats(2, 2))
    code, said = run("compile", source)
    assert code == 0, said
    assert "on the host: ZipMap" in said
    code, said = run("explain", bundle)
    assert code == 0, said
    assert "1 node on the host, 1 native part" in said
    assert "LinearClassifier" in said
    assert '"operator": "ZipMap"' in run("explain", bundle, "--json")[1]
    inputs = ("--input", tmp_path / "x.npy")
    assert '"name": "scores"' in run("run", bundle, *inputs, "--json")[1]
    code, said = run("run", bundle, *inputs, "-o", tmp_path / "y.npz")
    assert code != 0
    assert "the output 'scores' is no array" in said
    for verb in ("verify", "bench"):
        code, said = run(verb, source)
        assert code != 0
        assert "partly on the host" in said


NAMED_ALIKE = """g (bool p, string[2] x, float[2] v) => (string[2] y, float[2] w) {
    y = If(p) <then_branch = a () => (string[2] o) { t = StringConcat(x, x) o = Identity(t) },
               else_branch = b () => (string[2] o) { t = Neg(v) o = Cast<to = 8>(t) }>
    w = If(p) <then_branch = a () => (float[2] o) { t = Neg(v) o = Identity(t) },
               else_branch = b () => (float[2] o) { t = StringConcat(one, e) o = Cast<to = 1>(t) }>
    one = Constant<value_strings = ["1", "1"]>()
    e = Cast<to = 8>(v)
}"""


def test_bodies_that_use_a_name_again() -> None:
    model = compiled(NAMED_ALIKE)
    for p in (True, False):
        x, v = texts("a", "b"), np.array([1, 2], np.float32)
        y, w = model(np.array(p), x, v)
        assert y.tolist() == (["aa", "bb"] if p else ["-1.0", "-2.0"])
        np.testing.assert_array_equal(w, [-1, -2] if p else [11, 12])


def test_texts_are_moved_and_not_blended() -> None:
    body = """g (string[1,1,2,2] x) => (string[1,1,4,2] y) {
        s = Constant<value_floats = [1.0, 1.0, 2.0, 1.0]>()
        y = Resize<mode = "%s">(x, , s)
    }"""
    x = texts("a", "b", "c", "d").reshape(1, 1, 2, 2)
    assert compiled(body % "nearest")(x).tolist() == x.repeat(2, 2).tolist()
    with pytest.raises(ModelError, match="texts can be moved"):
        compiled(body % "linear")


@pytest.mark.parametrize(
    "node", ["Add(x, x)", "Abs(x)", "ReduceSum(x)", "ArgMax(x)", "com.microsoft.CDist(x, x)"]
)
def test_texts_are_no_numbers(node: str) -> None:
    with pytest.raises((ModelError, UnsupportedError), match=r"found string|of texts"):
        compiled(f"g (string[2] x) => (y) {{ y = {node} }}")
