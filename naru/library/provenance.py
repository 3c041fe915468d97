"""Where a library comes from: what it was made of, with what, and what is in it.

One JSON object, in the file `NAME.json` beside a library and inside it (the section `.naru` of a
shared library, the custom section `naru` of a WebAssembly module), without times and paths: equal
input gives equal bytes. Its `sbom` is a bill of materials in CycloneDX 1.6.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from naru.artifact.bundle import BundleParts
from naru.codegen.objects import llvm_version
from naru.library.signature import Signature
from naru.library.weights import Weights
from naru.version import VERSION

FORMAT = 1


def provenance(
    levels: Sequence[BundleParts],
    signature: Signature,
    weights: Weights,
    *,
    platform: str,
    compiler: str | None = None,
) -> dict[str, Any]:
    """What a library says of itself. `compiler`: what the C compiler calls itself, where one was
    used."""
    manifest = levels[0][0]
    entry = manifest["entries"][0]
    return {
        "format": FORMAT,
        "naru": VERSION,
        "name": signature.name,
        "platform": platform,
        "source": manifest["source"],
        "options": manifest["options"],
        "levels": [
            {
                "name": m["target"]["name"],
                "triple": m["target"]["triple"],
                "features": m["target"]["features"],
                "code": len(memoryview(sections["code"])),
                "kernels": len(m["kernels"]),
            }
            for m, sections in levels
        ],
        "inputs": entry["inputs"],
        "outputs": entry["outputs"],
        "symbols": [s for s in manifest["symbols"] if s["kind"] == "input"],
        "memory": manifest["memory"],
        "weights": {
            "size": weights.size,
            "digest": weights.digest,
            "sha256": weights.sha256.hex(),
        },
        "sbom": bill_of_materials(manifest, signature, compiler),
    }


def bill_of_materials(
    manifest: Mapping[str, Any], signature: Signature, compiler: str | None
) -> dict[str, Any]:
    """The components of a library in CycloneDX 1.6: the model, and naru's runtime; the tools that
    made it are not part of it."""
    source = manifest["source"]
    model: dict[str, Any] = {
        "type": "machine-learning-model",
        "name": source.get("name") or signature.name,
        "bom-ref": "model",
    }
    if source.get("sha256"):
        model["hashes"] = [{"alg": "SHA-256", "content": source["sha256"]}]
    files: dict[str, str] = source.get("files") or {}
    if files:
        model["components"] = [
            {"type": "file", "name": n, "hashes": [{"alg": "SHA-256", "content": h}]}
            for n, h in sorted(files.items())
        ]
    tools: list[dict[str, Any]] = [
        _component("application", "naru", VERSION, "Apache-2.0"),
        _component("library", "llvmlite", _version("llvmlite"), "BSD-2-Clause"),
        _component("library", "LLVM", llvm_version().rpartition(" ")[2], _LLVM_LICENSE),
    ]
    if compiler:
        tools.append({"type": "application", "name": compiler})
    library = {"type": "library", "name": signature.name, "bom-ref": "library"}
    runtime = _component("library", "naru-runtime", VERSION, "Apache-2.0")
    runtime["bom-ref"] = "naru-runtime"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"tools": {"components": tools}, "component": library},
        "components": [model, runtime],
        "dependencies": [{"ref": "library", "dependsOn": ["model", "naru-runtime"]}],
    }


_LLVM_LICENSE = "Apache-2.0 WITH LLVM-exception"


def _component(kind: str, name: str, number: str, license_id: str) -> dict[str, Any]:
    expression = " " in license_id
    license_ = {"expression": license_id} if expression else {"license": {"id": license_id}}
    return {"type": kind, "name": name, "version": number, "licenses": [license_]}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def as_json(record: Mapping[str, Any]) -> bytes:
    """For people and for files: sorted, indented, with a line's end."""
    return (json.dumps(record, indent=1, sort_keys=True) + "\n").encode()
