"""How large the code is: lines and tokens by package, long files, long functions.

Tokens are counted as well as lines, so that nobody saves lines by packing them. Nothing is
enforced but the hard limit on files; the rest says where to look twice.

    python tools/sizes.py            # a table
    python tools/sizes.py --all      # and every function over the limit, not the ten longest
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE_SOFT, FILE_HARD = 400, 800
FUNCTION_SOFT = 60
# Files that may pass the hard limit, each with its reason.
EXCEPTIONS: dict[str, str] = {}

SILENT = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
)


@dataclass(frozen=True)
class Function:
    """A function or method, and how many lines it spans."""

    place: str
    name: str
    lines: int


@dataclass(frozen=True)
class File:
    """Sizes of one file. `code` leaves out blank lines, comments and docstrings."""

    path: Path
    lines: int
    code: int
    tokens: int
    functions: tuple[Function, ...]

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))


def docstring_lines(tree: ast.Module) -> set[int]:
    """Line numbers that belong to docstrings."""
    found: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                found.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            case _:
                pass
    return found


def measure(path: Path) -> File:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, str(path))
    documentation = docstring_lines(tree)
    tokens = [
        token
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in SILENT and token.start[0] not in documentation
    ]
    code = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    functions = tuple(
        Function(
            f"{path.relative_to(ROOT)}:{node.lineno}",
            node.name,
            (node.end_lineno or node.lineno) - node.lineno + 1,
        )
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return File(path, text.count("\n"), len(code), len(tokens), functions)


def package_of(path: Path) -> str:
    """`naru/ir` for a file anywhere under it; `naru` for the files directly in naru."""
    parts = path.relative_to(ROOT).parts[:-1]
    return "/".join(parts[:2])


def print_packages(files: list[File]) -> None:
    packages: dict[str, list[File]] = {}
    for file in files:
        packages.setdefault(package_of(file.path), []).append(file)
    print(f"{'package':24} {'files':>6} {'lines':>8} {'code':>8} {'tokens':>9}")
    for name in sorted(packages):
        print_row(name, packages[name])
    print_row("naru in all", [file for file in files if package_of(file.path).startswith("naru")])
    print_row("all", files)


def print_row(name: str, files: list[File]) -> None:
    lines, code = sum(file.lines for file in files), sum(file.code for file in files)
    tokens = sum(file.tokens for file in files)
    print(f"{name:24} {len(files):6} {lines:8,} {code:8,} {tokens:9,}")


def print_long(files: list[File], *, everything: bool) -> None:
    product = [file for file in files if package_of(file.path).startswith("naru")]
    long_files = [file for file in files if file.lines > FILE_SOFT]
    print(f"\n{len(long_files)} files over {FILE_SOFT} lines")
    for file in sorted(long_files, key=lambda file: -file.lines):
        print(f"  {file.lines:5}  {file.name}  {EXCEPTIONS.get(file.name, '')}".rstrip())
    long_functions = [
        function
        for file in product
        for function in file.functions
        if function.lines > FUNCTION_SOFT
    ]
    long_functions.sort(key=lambda function: -function.lines)
    print(f"\n{len(long_functions)} functions in naru/ over {FUNCTION_SOFT} lines")
    for function in long_functions if everything else long_functions[:10]:
        print(f"  {function.lines:5}  {function.place}  {function.name}")


def main() -> int:
    parser = argparse.ArgumentParser(description="sizes of the code")
    parser.add_argument("--all", action="store_true", help="list every long function")
    everything: bool = parser.parse_args().all
    folders = ("naru", "tests", "tools", "bench", "models")
    files = [measure(path) for folder in folders for path in sorted(ROOT.glob(f"{folder}/**/*.py"))]
    print_packages(files)
    print_long(files, everything=everything)
    too_long = [
        file
        for file in files
        if file.lines > FILE_HARD
        and file.name not in EXCEPTIONS
        and package_of(file.path).startswith("naru")
    ]
    for file in too_long:
        print(
            f"{file.name}: expected at most {FILE_HARD} lines, found {file.lines}; "
            f"split it, or name it in EXCEPTIONS of tools/sizes.py with a reason",
            file=sys.stderr,
        )
    return 1 if too_long else 0


if __name__ == "__main__":
    sys.exit(main())
