"""Pickles are looked at without running them: what they would do is named, and nothing happens."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import subprocess
import sys
import time
import zipfile
import zlib
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from naru.errors import InputError, ModelError, NaruWarning, UnsupportedError
from naru.frontend import pickles
from naru.frontend.pickles import (
    inspect_pickle,
    is_pickle,
    is_skops,
    load_pickle,
)

Array = np.ndarray
PACKERS = {
    "plain": lambda b: b,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda b: lzma.compress(b, lzma.FORMAT_ALONE),
    "zlib": zlib.compress,
}


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def fitted() -> Any:
    x = np.random.default_rng(0).normal(size=(60, 3))
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(x, x[:, 0] > 0)


def names(data: bytes) -> set[str]:
    return {str(i) for i in inspect_pickle(data).imports}


# ---- nothing runs --------------------------------------------------------------------------------


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("protocol", range(6))
def test_nothing_runs(protocol: int, packer: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    for value in (Evil(made), [1, {"a": (Evil(made),)}], OrderedDict(x=Evil(made))):
        data = PACKERS[packer](pickle.dumps(value, protocol))
        report = inspect_pickle(data)
        assert not report.safe
        assert {str(i) for i in report.unknown} & {"posix.mkdir", "nt.mkdir"}
        with pytest.raises(InputError, match="mkdir"):
            load_pickle(data)
        with pytest.raises(InputError, match="mkdir"):
            load_pickle(data, trusted=["os.rmdir"])
        assert not made.exists()
    load_pickle(data, trusted=True)
    assert made.exists()  # it would have


@pytest.mark.parametrize("compress", [0, *((n, 3) for n in ("zlib", "gzip", "bz2", "xz", "lzma"))])
def test_nothing_runs_in_joblib(compress: Any, tmp_path: Path) -> None:
    """Also behind arrays, and within arrays of objects, which are pickles of their own."""
    made, path = tmp_path / "made", tmp_path / "m.joblib"
    inside = np.array([Evil(made), None], object)
    values = [np.arange(1000.0), np.zeros((3, 4), np.float32), inside, Evil(made)]
    for value in (values, inside, {"a": np.array(["x", "yy"]), "b": inside}):
        joblib.dump(value, path, compress=compress)
        report = inspect_pickle(path)
        assert report.kind == "joblib"
        assert {str(i) for i in report.unknown} & {"posix.mkdir", "nt.mkdir"}
        with pytest.raises(InputError, match="mkdir"):
            load_pickle(path)
        assert not made.exists()


def test_nothing_runs_in_torch(tmp_path: Path) -> None:
    made, path = tmp_path / "made", tmp_path / "m.pt"
    for new in (True, False):
        torch.save({"w": torch.zeros(3), "x": Evil(made)}, path, _use_new_zipfile_serialization=new)
        report = inspect_pickle(path)
        assert {str(i) for i in report.unknown} & {"posix.mkdir", "nt.mkdir"}
        assert not made.exists()


def test_in_a_zip_by_another_name(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("readme.txt", "hello")
        z.writestr("weights.bin", pickle.dumps(Evil(tmp_path / "made")))
    assert not inspect_pickle(out.getvalue()).safe
    with pytest.raises(InputError):
        load_pickle(out.getvalue())


BY_HAND = {
    "INST": b"(S'echo'\niposix\nsystem\n.",
    "OBJ": b"(cposix\nsystem\nS'echo'\no.",
    "GLOBAL": b"cposix\nsystem\n(S'echo'\ntR.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04echo\x85R.",
    "from the memo": b"\x80\x04\x8c\x06system\x94\x8c\x05posix\x94h\x01h\x00\x93\x8c\x01a\x85R.",
    "long memo": b"\x80\x04\x8c\x06systemr\x07\x00\x00\x000\x8c\x05posixj\x07\x00\x00\x00\x93.",
    "text memo": b"Vsystem\np7\n0Vposix\ng7\n\x93.",
    "DUP": b"\x80\x04\x8c\x05posix\x8c\x06system20\x93.",
    "escapes": b"\x80\x04Vpos\\u0069x\nVsyst\\u0065m\n\x93.",
    "behind STOP": pickle.dumps(1) + b"\x80\x04cposix\nsystem\n.",
    "popped": b"\x80\x04N0(N1\x8c\x05posix\x8c\x06system\x93.",
    "through a tuple": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x85.",
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name: str) -> None:
    report = inspect_pickle(BY_HAND[name])
    assert [str(i) for i in report.unknown] == ["posix.system"]
    assert not report.safe


COMPUTED = {
    "a call": b"\x80\x04cbuiltins\nstr\n\x8c\x05posix\x85R\x8c\x06system\x93.",
    "extension": b"\x80\x02\x82\x01.",
    "a list": b"\x80\x04]\x8c\x06system\x93.",
    "no memo": b"\x80\x04h\x05h\x06\x93.",
    "a long text": b"\x80\x04X" + (5000).to_bytes(4, "little") + b"a" * 5000 + b"\x8c\x01a\x93.",
}


@pytest.mark.parametrize("name", COMPUTED)
def test_computed_names(name: str) -> None:
    report = inspect_pickle(COMPUTED[name])
    assert report.unresolved == 1
    assert not report.safe
    with pytest.raises(InputError, match="names it computes"):
        load_pickle(COMPUTED[name], trusted=["posix.system"])


HIDDEN = b"0\x8c\x05posix\x8c\x06system\x93."
ASTRAY = {
    "GET +0": b"Vsystem\np0\n0Vposix\ng+0\n\x93.",
    "PUT 1_0": b"Vsystem\np1_0\n0Vposix\ng10\n\x93.",
    "GET blank": b"Vsystem\np0\n0Vposix\ng 0\n\x93.",
    "GET long": b"Vsystem\np0\n0Vposix\ng" + b"0" * 2000 + b"\n\x93.",
    "frame within a frame": b"\x80\x04\x95"
    + (20).to_bytes(8, "little")
    + b"\x95"
    + bytes(8)
    + b"N.",
    "frame behind STOP": b"\x80\x04\x95" + (9).to_bytes(8, "little") + b"N." + bytes(9),
    "frame ends in an opcode": b"\x80\x04\x95" + (2).to_bytes(8, "little") + b"\x8c\x05posix.",
    "a line": b"I" + b"1" * (10 << 20) + b"\n.",
    "a name": b"c" + b"a" * (10 << 20) + b"\nb\n.",
}


@pytest.mark.parametrize("name", ASTRAY)
def test_what_leads_the_scan_astray(name: str) -> None:
    before = time.perf_counter()
    with pytest.raises(ModelError):
        inspect_pickle(ASTRAY[name])
    assert time.perf_counter() - before < 2


def test_long_texts_are_passed_over_quickly() -> None:
    before = time.perf_counter()
    assert inspect_pickle(b"V" + b"a" * (10 << 20) + b"\n" + HIDDEN).unknown
    assert time.perf_counter() - before < 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\x8c\x05order", b"\x8c\x05shape"),  # the shape, and another one
        (b"\x8c\x05order", b"\x8c\x05Order"),
        (b"\x8c\x05shape", b"C\x05shape"),  # bytes
        (b"\x8c\x02f8", b"\x8c\x02x8"),
    ],
)
def test_arrays_of_joblib_that_cannot_be_told(tmp_path: Path, old: bytes, new: bytes) -> None:
    joblib.dump(np.arange(7.0), path := tmp_path / "m")
    data = path.read_bytes()
    assert old in data
    with pytest.raises(ModelError):
        inspect_pickle(data.replace(old, new))


def test_imports_of_nothing() -> None:
    """Inspecting imports no module that a file names."""
    code = (
        "import sys, pathlib; from naru.frontend.pickles import inspect_pickle\n"
        "r = inspect_pickle(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "assert not r.safe and 'antigravity' not in sys.modules and 'sklearn' not in sys.modules"
    )
    path = Path(os.devnull)
    data = b"\x80\x04cantigravity\nfly\n)R."
    with subprocess.Popen([sys.executable, "-c", code, "/dev/stdin"], stdin=subprocess.PIPE) as p:
        p.communicate(data)
    assert p.returncode == 0, path


# ---- what is safe --------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(6))
def test_models(protocol: int, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(80, 4))
    for e in (fitted(), RandomForestClassifier(3), HistGradientBoostingClassifier(max_iter=2)):
        e.fit(x, x[:, 1] > 0)
        data = pickle.dumps(e, protocol)
        report = inspect_pickle(data)
        assert report.safe, str(report)
        assert report.protocol == max(protocol if protocol > 1 else 0, report.protocol)
        assert is_pickle(data[:4096])
        joblib.dump(e, tmp_path / "m", protocol=protocol)
        found = inspect_pickle(tmp_path / "m")
        assert found.safe, str(found)
        assert found.kind == "joblib"
        back = load_pickle(tmp_path / "m", trusted=True)
        assert (back.predict(x) == e.predict(x)).all()


@pytest.mark.parametrize("compress", [("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_compressed(compress: Any, tmp_path: Path) -> None:
    path = tmp_path / "m"
    joblib.dump(fitted(), path, compress=compress)
    report = inspect_pickle(path)
    assert report.safe
    assert report.compression is not None
    assert is_pickle(path.read_bytes()[:4096])
    assert load_pickle(path, trusted=True).predict(np.zeros((1, 3))).shape == (1,)


def test_trusted_by_name() -> None:
    data = pickle.dumps({"a": pickle.PickleError, "b": fitted()})
    assert [str(i) for i in inspect_pickle(data).unknown] == ["_pickle.PickleError"]
    with pytest.raises(InputError, match=r"trust_pickle=\['_pickle.PickleError'\]"):
        load_pickle(data)
    assert set(load_pickle(data, trusted=["_pickle.PickleError"])) == {"a", "b"}


def test_a_list_holds_whatever_the_scan_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also within arrays of objects, and where the scan is blind."""
    blind = inspect_pickle(pickle.dumps(1))
    monkeypatch.setattr(pickles, "inspect_pickle", lambda _: blind)
    made, path = tmp_path / "made", tmp_path / "m"
    for value in (Evil(made), [np.array([Evil(made), None], object)]):
        levels: list[Any] = [0, ("zlib", 3)]
        for compress in levels:
            joblib.dump(value, path, compress=compress)
            with pytest.raises(ModelError, match=r"mkdir, which is not in the list"):
                load_pickle(path, trusted=["builtins.len"])
    for data in (BY_HAND["INST"], BY_HAND["OBJ"], b"(S'x'\nisklearn.base\nClone\n."):
        with pytest.raises(ModelError):
            load_pickle(data, trusted=["builtins.len"])
    assert not made.exists()
    values = np.array([["a", 1, None], [2.5, "b", 3]], object)
    for array in (values, np.asfortranarray(values)):
        joblib.dump([array, np.eye(3), fitted()], path)
        objects, eye, _ = load_pickle(path, trusted=["builtins.len"])
        assert (objects == values).all()
        assert (eye == np.eye(3)).all()


def test_calls_of_classes() -> None:
    """scikit-learn's are restored, not called; LightGBM's and XGBoost's read files when called."""
    called = b"csklearn.linear_model._base\nLinearRegression\n)R."
    restored = b"\x80\x02csklearn.linear_model._base\nLinearRegression\n)\x81."
    assert not inspect_pickle(called).safe
    assert inspect_pickle(restored).safe
    for name in ("lightgbm.basic\nBooster", "xgboost.core\nBooster", "xgboost.core\nDMatrix"):
        assert not inspect_pickle(f"c{name}\n.".encode()).safe
    with pytest.raises(InputError, match="is not trusted"):
        load_pickle(called, trusted=["builtins.len"])
    assert inspect_pickle(pickle.dumps(SGDClassifier().fit([[0], [1]], [0, 1]))).safe
    name = "sklearn.linear_model._base.LinearRegression"
    assert type(load_pickle(called, trusted=[name])).__name__ == "LinearRegression"


def test_a_text_is_no_list_of_names() -> None:
    with pytest.raises(InputError, match=r"trust_pickle=\['os.mkdir'\]"):
        load_pickle(pickle.dumps(1), trusted="os.mkdir")


@pytest.mark.parametrize("name", ["posix system", "builtins eval", "subprocess Popen", "os remove"])
def test_no_message_proposes_to_trust_what_is_dangerous(tmp_path: Path, name: str) -> None:
    (path := tmp_path / "m.pkl").write_bytes("c{}\n{}\n.".format(*name.split()).encode())
    with pytest.raises(InputError, match="do not load it unless you know who wrote it") as caught:
        load_pickle(path)
    assert "trust_pickle" not in str(caught.value)


def test_messages_name_the_file_and_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    for value, words in (({"a": [1.5]}, "a dict"), ([1], "a list"), ("x", "a text")):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(InputError, match=rf"model\.pkl(.|\n)*\({words}, no estimator\)"):
            load_pickle(path)
    path.write_bytes(pickle.dumps(fitted()))
    with pytest.raises(InputError) as caught:
        load_pickle(path)
    assert "no estimator" not in str(caught.value)
    path.write_bytes(pickle.dumps({"a": 1})[:-1])
    with pytest.raises(ModelError, match=r"model\.pkl"):
        load_pickle(path)


def test_functions_are_not_safe() -> None:
    for module, name in (
        ("sklearn.datasets", "load_files"), ("sklearn.utils", "check_array"), ("numpy", "load"),
        ("sklearn.datasets._base", "Bunch"), ("sklearn.base", "BaseEstimator.fit"),
        ("builtins", "eval"), ("builtins", "getattr"), ("joblib", "load"), ("sklearnx", "Ridge"),
    ):  # fmt: skip
        assert not inspect_pickle(f"c{module}\n{name}\n.".encode()).safe, name


def test_old_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    import sklearn.base

    with monkeypatch.context() as m:
        m.setattr(sklearn.base, "__version__", "0.1")
        data = pickle.dumps(fitted())
    with pytest.warns(NaruWarning, match=r"saved by scikit-learn 0\.1"):
        load_pickle(data, trusted=True)


def test_missing_package() -> None:
    with pytest.raises(ModelError, match="needs the package nowhere"):
        load_pickle(b"cnowhere.at.all\nThing\n.", trusted=True)
    with pytest.raises(ModelError, match="cannot be loaded: AttributeError"):
        load_pickle(b"cos\nnothing_like_it\n.", trusted=True)
    with pytest.raises(ModelError, match="cannot be read"):
        load_pickle("/nowhere/at/all", trusted=True)


def test_torch_is_not_loaded(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(3)}, tmp_path / "m.pt")
    with pytest.raises(UnsupportedError, match="weights_only"):
        load_pickle(tmp_path / "m.pt", trusted=True)


def test_skops(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.skops", "w") as z:
        z.writestr("schema.json", "{}")
    assert is_skops(tmp_path / "m.skops")
    with pytest.raises(ModelError, match=r"skops.io.load"):
        inspect_pickle(tmp_path / "m.skops")


@pytest.mark.parametrize(
    "head",
    [b"", b"ONNX", b"\x08\x09\x12", b"tree\nversion=v4", b'{"learner":', b"PK\x03\x04", b"\x80"],
)
def test_others_are_no_pickles(head: bytes) -> None:
    assert not is_pickle(head)


# ---- hostile files -------------------------------------------------------------------------------


def test_bombs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MOST_BYTES", 1 << 22)
    zeros = b"\x80\x04B" + (1 << 24).to_bytes(4, "little") + bytes(1 << 24) + b"."
    for pack in PACKERS.values():
        with pytest.raises(ModelError, match="more than 4194304 bytes"):
            inspect_pickle(pack(zeros))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for k in range(5):
            z.writestr(f"{k}/data.pkl", zeros[: 1 << 20])
    with pytest.raises(ModelError):
        inspect_pickle(out.getvalue())


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04B\xff\xff\xff\x7fabc",
        b"\x80\x04\x8e" + b"\xff" * 8,
        b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f",
        b"\x80\x04\x8b\xff\xff\xff\xffx",
        b"(" * 600_000,
        b"\x80\x04" + b"N" * 600_000,
        b"\x80\x04N" + b"2" * 600_000,
        b"\x80\x04N" + b"\x94" * 600_000,
        b"\x80\x04)" + b"\x85" * 1_000_000 + b"00.",
        b"\x80\x04)" + b"2\x86" * 100_000 + b"00.",
        b"c" + b"a" * 2_000_000 + b"\nb\n00",
        b"\x80\x04" + b"".join(b"ca%d\nb\n0" % k for k in range(20_000)) + b"N.",
        b"R.", b"0", b"b", b"u", b"s", b"t", b"}s.", b"(NNs", b"\x93", b"q\x00", b"\xff",
    ],
)  # fmt: skip
def test_hostile(data: bytes) -> None:
    with pytest.raises(ModelError):
        inspect_pickle(data)


VALID = [
    pickle.dumps(fitted(), 2), pickle.dumps(fitted(), 5), pickle.dumps({"a": [1, (2, "b")]}, 0),
    zlib.compress(pickle.dumps([1.5, None, {3: b"x"}])), gzip.compress(pickle.dumps("abc" * 99)),
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged(d: st.DataObject) -> None:
    """Whatever stands in a file: a report, or a ModelError."""
    data = bytearray(d.draw(st.sampled_from(VALID)))
    for _ in range(d.draw(st.integers(1, 6))):
        at = d.draw(st.integers(0, len(data) - 1))
        kind = d.draw(st.integers(0, 2))
        if kind == 0:
            data[at] = d.draw(st.integers(0, 255))
        elif kind == 1:
            del data[at : at + d.draw(st.integers(1, 20))]
            data = data or bytearray(b".")
        else:
            data[at:at] = d.draw(st.binary(max_size=8))
    with suppress(ModelError):
        str(inspect_pickle(bytes(data)))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_noise(data: bytes) -> None:
    for prefix in (b"", b"\x80\x04", b"PK\x03\x04", b"\x1f\x8b", b"\x78\x9c", b"\xfd7zXZ\x00"):
        is_pickle(prefix + data)
        with suppress(ModelError):
            inspect_pickle(prefix + data)
