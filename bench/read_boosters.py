"""How long it takes, and how much memory, to read a large model of LightGBM or XGBoost.

    python bench/read_boosters.py lightgbm --trees 1000 --leaves 255
    python bench/read_boosters.py ubj --trees 100000 --leaves 31 --compile

A few dozen trees are trained, and their text repeated up to the number that is asked for.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

TRAINED = 50


def data(rows: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 28)).astype(np.float32)
    return x, np.sin(x[:, 0] * 2) + x[:, 1] * x[:, 2] + rng.normal(size=rows)


def lightgbm_text(trees: int, leaves: int) -> bytes:
    """The file of a model with that many trees."""
    import lightgbm

    x, y = data()
    params = {"objective": "regression", "num_leaves": leaves, "verbosity": -1,
              "min_data_in_leaf": 3}  # fmt: skip
    text = lightgbm.train(params, lightgbm.Dataset(x, y), TRAINED).model_to_string()
    head, *parts = re.split(r"^Tree=\d+\n", text, flags=re.MULTILINE)
    parts[-1], tail = parts[-1].split("end of trees")
    made = [f"Tree={k}\n{parts[k % TRAINED]}" for k in range(trees)]
    sizes = " ".join(str(len(t)) for t in made)
    head = re.sub(r"tree_sizes=.*", f"tree_sizes={sizes}", head)
    return (head + "".join(made) + "end of trees" + tail).encode()


def xgboost_file(trees: int, leaves: int, form: str) -> bytes:
    import xgboost

    x, y = data()
    params = {"max_leaves": leaves, "max_depth": 0, "grow_policy": "lossguide"}
    booster = xgboost.train(params, xgboost.DMatrix(x, y), TRAINED)
    if form == "ubj":
        return _repeat_ubjson(bytes(booster.save_raw("ubj")), trees)
    whole: Any = json.loads(booster.save_raw("json"))
    model = whole["learner"]["gradient_booster"]["model"]
    texts = [json.dumps(t, separators=(",", ":")) for t in model["trees"]]
    model["trees"] = "TREES"
    model["tree_info"] = [0] * trees
    model["gbtree_model_param"]["num_trees"] = str(trees)
    model["iteration_indptr"] = list(range(trees + 1))
    repeated = ",".join(texts[k % TRAINED] for k in range(trees))
    return json.dumps(whole, separators=(",", ":")).replace('"TREES"', f"[{repeated}]").encode()


def _repeat_ubjson(whole: bytes, trees: int) -> bytes:
    """The list of trees, and that of their classes, made longer."""

    def length(n: int) -> bytes:
        return b"#L" + n.to_bytes(8, "big")

    head, rest = whole.split(b"trees[" + length(TRAINED), 1)
    *parts, tail = re.split(rb"(?<=size_leaf_vectorSL.{8}1\}\})", rest, flags=re.DOTALL)
    assert len(parts) == TRAINED
    old = b"tree_info[" + length(TRAINED) + b"i\x00" * TRAINED
    assert old in head
    head = head.replace(old, b"tree_info[" + length(trees) + b"i\x00" * trees)
    made = b"".join(parts[k % TRAINED] for k in range(trees))
    return head + b"trees[" + length(trees) + made + tail


def measure(path: Path, *, compile: bool) -> None:
    from naru.frontend.lightgbm import is_lightgbm, read_lightgbm
    from naru.frontend.xgboost import read_xgboost

    start_memory, start, cpu = peak(), time.perf_counter(), time.process_time()
    content = path.read_bytes()
    forest = (read_lightgbm if is_lightgbm(content) else read_xgboost)(content)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(f"{len(content) / 1e6:.0f} MB: read in {seconds:.2f} s ({cpu:.2f} s of this thread), "
          f"peak {peak():.2f} GB ({start_memory:.2f} before)")  # fmt: skip
    if compile:
        from naru.ops.tree_tables import make_tables

        start = time.perf_counter()
        make_tables(forest.nodes, forest.votes)
        print(f"its tables in {time.perf_counter() - start:.2f} s, peak {peak():.2f} GB")
        del forest, content
        import naru

        start = time.perf_counter()
        naru.compile(path, cache=False)
        print(f"all of it compiled in {time.perf_counter() - start:.2f} s, peak {peak():.2f} GB")


def peak() -> float:
    """GB that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("lightgbm", "json", "ubj", "file"))
    parser.add_argument("--trees", type=int, default=1000)
    parser.add_argument("--leaves", type=int, default=255)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--file", type=Path, help="measure this one; or where to write it")
    args = parser.parse_args()
    if args.kind != "file":
        made = (
            lightgbm_text(args.trees, args.leaves)
            if args.kind == "lightgbm"
            else xgboost_file(args.trees, args.leaves, args.kind)
        )
        path = args.file or Path(tempfile.gettempdir()) / "model.any"
        path.write_bytes(made)
        print(f"written: {path}; to measure: read_boosters.py file --file {path}")
        return
    measure(args.file, compile=args.compile)


if __name__ == "__main__":
    main()
