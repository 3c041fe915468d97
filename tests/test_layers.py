"""Imports point one way, and the runtime knows no compiler.

The names and lines of every wrong import are listed. Imports inside functions count: an import that
is hidden in a function to break a cycle is still a cycle.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tools.build_wheels import runtime_files

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "naru"

# From the bottom up. A module imports from earlier layers, or from its own package.
LAYERS: tuple[tuple[str, ...], ...] = (
    # The extension is C, and knows nothing of naru: checksums, mapped files, threads, calls.
    (
        "naru.errors",
        "naru.knobs",
        "naru.dtypes",
        "naru.processing",
        "naru.targets",
        "naru.units",
        "naru.version",
        "naru.runtime._native",
    ),
    ("naru.ir",),
    ("naru.ops",),
    ("naru.frontend", "naru.passes"),
    ("naru.schedule",),
    ("naru.codegen",),
    ("naru.artifact",),
    ("naru.library",),
    ("naru.runtime",),
)
# The last layer: these may import everything, and nothing below may import them.
TOP = (
    "naru",
    "naru.__main__",
    "naru.bench",
    "naru.building",
    "naru.check",
    "naru.cli",
    "naru.compiler",
    "naru.custom",
    "naru.demo",
    "naru.doctor",
    "naru.explain",
    "naru.files",
    "naru.index_limits",
    "naru.inputs",
    "naru.onnx_backend",
    "naru.options",
    "naru.pipeline",
    "naru.roofs",
    "naru.serve",
    "naru.support",
    "naru.torch_backend",
    "naru.verify",
)
# The runtime and what it borrows. They must run where neither the compiler nor its dependencies
# are, so they import only each other, numpy and the standard library.
_BUNDLES = tuple(f"naru.artifact.{m}" for m in ("bundle", "cache", "golden", "manifest"))
SLIM = (*LAYERS[0], "naru.runtime", *_BUNDLES)
COMPILER_ONLY = ("llvmlite", "onnx", "torch", "sklearn", "triton")
# A start-up path: `import naru` and a cache hit must not load the compiler, so these may import
# when called.
MAY_BE_LAZY = ("naru", "naru.building", "naru.cli", "naru.compiler", "naru.__main__")


@cache
def parsed(path: Path) -> ast.Module:
    """A file's syntax; several tests look at all files."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    return {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def is_within(module: str, package: str) -> bool:
    """Is it that package, or inside it? `naru` itself means only `naru/__init__.py`."""
    return module == package or (package != "naru" and module.startswith(package + "."))


def layer_of(module: str) -> int | None:
    for number, packages in enumerate(LAYERS):
        if any(is_within(module, package) for package in packages):
            return number
    return len(LAYERS) if any(is_within(module, top) for top in TOP) else None


def package_of(module: str) -> str:
    """`naru.ir` for `naru.ir.loop`; the first two names."""
    return ".".join(module.split(".")[:2])


def imports_of(
    tree: ast.Module, module: str, is_package: bool, known: set[str]
) -> Iterator[tuple[str, int]]:
    """(module, line) of each import; `from naru.ir import loop` means naru.ir.loop."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                here = module.split(".") if is_package else module.split(".")[:-1]
                base = here[: len(here) - (node.level - 1)]
                source = ".".join([*base, source] if source else base)
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield (inner if inner in known else source), node.lineno


def wrong_imports(files: dict[str, Path]) -> list[str]:
    """One line of text for every import that points the wrong way."""
    # An extension module has no source here, but it has a stub.
    known = set(files) | {module_name(path) for path in PACKAGE.rglob("*.pyi")}
    problems: list[str] = []
    for module, path in files.items():
        place = path.relative_to(ROOT)
        layer = layer_of(module)
        if layer is None:
            problems.append(f"{place}: {module} belongs to no layer; add it to LAYERS")
            continue
        tree = parsed(path)
        is_package = path.name == "__init__.py"
        for imported, line in imports_of(tree, module, is_package, known):
            problem = find_problem(module, layer, imported)
            if problem:
                problems.append(f"{place}:{line}: {module} imports {imported}: {problem}")
    return problems


def find_problem(module: str, layer: int, imported: str) -> str | None:
    slim = any(is_within(module, package) for package in SLIM)
    top_level = imported.split(".")[0]
    if top_level in COMPILER_ONLY and slim:
        return "the runtime must work without it"
    if top_level != "naru":
        return None
    if slim and not any(is_within(imported, package) for package in SLIM):
        return "the runtime may not import the compiler"
    if layer == len(LAYERS):
        return None
    found = layer_of(imported)
    if found is None:
        return "it belongs to no layer"
    # naru.errors and naru.targets share a layer and may know one another; packages may not.
    if package_of(module) == package_of(imported) or (layer == found == 0):
        return None
    return None if found < layer else "imports point to earlier layers only"


def test_imports_point_one_way() -> None:
    problems = wrong_imports(modules())
    assert not problems, "\n" + "\n".join(problems)


def test_layers_without_cycle_inside_the_first() -> None:
    """The modules of layer 0 may import each other, but not in a circle."""
    files = modules()
    graph = {
        module: {
            imported
            for imported, _ in imports_of(parsed(path), module, False, set(files))
            if imported in LAYERS[0]
        }
        for module, path in files.items()
        if module in LAYERS[0]
    }
    while graph:
        leaves = [module for module, imported in graph.items() if not imported & graph.keys()]
        assert leaves, f"import cycle among {sorted(graph)}"
        for leaf in leaves:
            del graph[leaf]


def test_imports_stand_at_the_top() -> None:
    """An import inside a function hides a cycle, except where starting quickly is the reason."""
    problems = []
    for module, path in modules().items():
        if any(is_within(module, lazy) for lazy in MAY_BE_LAZY):
            continue
        for function in ast.walk(parsed(path)):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            problems += [
                f"{path.relative_to(ROOT)}:{node.lineno}: import inside a function"
                for node in ast.walk(function)
                if (isinstance(node, ast.Import) and any(names_naru(a.name) for a in node.names))
                or (
                    isinstance(node, ast.ImportFrom)
                    and (node.level > 0 or names_naru(node.module or ""))
                )
            ]
    assert not problems, "\n" + "\n".join(sorted(set(problems)))


def names_naru_absolutely(node: ast.Import | ast.ImportFrom) -> bool:
    if isinstance(node, ast.Import):
        return any(names_naru(alias.name) for alias in node.names)
    return node.level == 0 and names_naru(node.module or "")


def names_naru(module: str) -> bool:
    return module.split(".")[0] == "naru"


def test_what_the_slim_wheel_ships_is_closed() -> None:
    """It is a package of another name: its files import each other relatively, and else only numpy
    and the standard library (and ml_dtypes, where a dtype needs it)."""
    shipped = {module_name(path): path for path in runtime_files() if path.suffix == ".py"}
    known = {*shipped, "naru", "naru.runtime", "naru.artifact", "naru.runtime._native"}
    allowed = {*sys.stdlib_module_names, "numpy", "ml_dtypes", "PIL"}
    problems = []
    for module, path in shipped.items():
        tree = parsed(path)
        for imported, line in imports_of(tree, module, False, known):
            if imported not in known and imported.split(".")[0] not in allowed:
                problems.append(f"{path.relative_to(ROOT)}:{line}: {imported} is not shipped")
        problems += [
            f"{path.relative_to(ROOT)}:{node.lineno}: import it relatively"
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom) and names_naru_absolutely(node)
        ]
    assert not problems, "\n" + "\n".join(problems)


def test_no_star_imports() -> None:
    problems = [
        f"{path.relative_to(ROOT)}:{node.lineno}: from {node.module} import *"
        for path in modules().values()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    ]
    assert not problems, "\n" + "\n".join(problems)


def test_only_knobs_reads_the_environment() -> None:
    problems = []
    for module, path in modules().items():
        if module == "naru.knobs":
            continue
        for node in ast.walk(parsed(path)):
            reads = (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "os"
                and node.attr in ("environ", "environb", "getenv", "getenvb")
            )
            imports = (
                isinstance(node, ast.ImportFrom)
                and node.module == "os"
                and any(alias.name in ("environ", "getenv") for alias in node.names)
            )
            if reads or imports:
                line = getattr(node, "lineno", 0)
                problems.append(f"{path.relative_to(ROOT)}:{line}: read it in naru/knobs.py")
    assert not problems, "\n" + "\n".join(problems)


def test_importing_naru_loads_no_compiler() -> None:
    """`naru.load` is all that a server needs, and must start quickly and without llvmlite."""
    program = (
        "import sys, naru\n"
        "naru.load\n"
        f"loaded = [m for m in {COMPILER_ONLY!r} if m in sys.modules]\n"
        "loaded += [m for m in sys.modules if m.startswith(('naru.codegen', 'naru.passes'))]\n"
        "print(' '.join(loaded))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert not result.stdout.split(), f"loaded by `import naru; naru.load`: {result.stdout}"


def test_this_test_finds_wrong_imports() -> None:
    """Each rule, on a module that breaks it."""
    known = {"naru.ir", "naru.ir.loop", "naru.codegen.llvm"}
    tree = ast.parse("def f():\n    from . import loop\n    from ..codegen import llvm\n")
    assert list(imports_of(tree, "naru.ir.graph", False, known)) == [
        ("naru.ir.loop", 2),
        ("naru.codegen.llvm", 3),
    ]
    cases = {
        ("naru.ir.graph", "naru.ir.loop"): None,
        ("naru.ir.graph", "naru.errors"): None,
        ("naru.ir.graph", "naru.codegen.llvm"): "imports point to earlier layers only",
        ("naru.passes.fuse", "naru.frontend.onnx"): "imports point to earlier layers only",
        ("naru.runtime.session", "naru.artifact.bundle"): None,
        ("naru.runtime.session", "naru.artifact.link"): "the runtime may not import the compiler",
        ("naru.runtime.session", "naru.ir.graph"): "the runtime may not import the compiler",
        ("naru.artifact.bundle", "naru.runtime._native"): None,
        ("naru.artifact.bundle", "naru.runtime.session"): "imports point to earlier layers only",
        ("naru.artifact.bundle", "naru.ir.graph"): "the runtime may not import the compiler",
        ("naru.errors", "naru.runtime.session"): "imports point to earlier layers only",
        ("naru.artifact.bundle", "llvmlite.binding"): "the runtime must work without it",
        ("naru.codegen.llvm", "naru.cli"): "imports point to earlier layers only",
        ("naru.codegen.llvm", "naru.unheard_of"): "it belongs to no layer",
        ("naru.cli", "naru.pipeline"): None,
    }
    for (module, imported), expected in cases.items():
        layer = layer_of(module)
        assert layer is not None
        assert find_problem(module, layer, imported) == expected, (module, imported)
