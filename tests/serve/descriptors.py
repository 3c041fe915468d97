"""What a server's file of messages has otherwise than that of Triton's client.

    python tests/serve/descriptors.py FILE

prints it, line by line. FILE has the server's FileDescriptorProto. It runs in an environment that
has the client (tests/serve/clients-requirements.txt) and needs nothing of naru.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def differences(ours: Any) -> Iterator[str]:
    """What the server's file has otherwise than the client's, of whose configuration of a model it
    has only a part."""
    calls, config = _file("service_pb2"), _file("model_config_pb2")
    if methods_of(ours) != methods_of(calls):
        yield f"the methods are {methods_of(ours)}, not {methods_of(calls)}"
    all_of, some_of, found = (fields_of(f, "") for f in (calls, config, ours))
    for path in sorted({*all_of, *found}):
        expected = all_of.get(path) or some_of.get(path)
        if found.get(path) != expected:
            yield f"{path}: expected {expected}, got {found.get(path)}"


def _file(name: str) -> Any:
    """A file of the client's messages."""
    file = importlib.import_module("google.protobuf.descriptor_pb2").FileDescriptorProto()
    importlib.import_module(f"tritonclient.grpc.{name}").DESCRIPTOR.CopyToProto(file)
    return file


def fields_of(holder: Any, path: str) -> dict[str, str]:
    """Fields and values of enums by their paths, as text."""
    found: dict[str, str] = {}
    messages = holder.message_type if hasattr(holder, "message_type") else holder.nested_type
    for enum in holder.enum_type:
        found.update({f"{path}.{enum.name}.{v.name}": str(v.number) for v in enum.value})
    for message in messages:
        inner = f"{path}.{message.name}"
        for f in message.field:
            oneof = message.oneof_decl[f.oneof_index].name if f.HasField("oneof_index") else ""
            found[f"{inner}.{f.name}"] = f"{f.number} {f.label} {f.type} {f.type_name} {oneof}"
        found.update(fields_of(message, inner))
    return found


def methods_of(file: Any) -> dict[str, str]:
    """The methods of a file's services, as text."""
    return {
        m.name: f"{m.input_type} {m.client_streaming} {m.output_type} {m.server_streaming}"
        for service in file.service
        for m in service.method
    }


if __name__ == "__main__":
    types: Any = importlib.import_module("google.protobuf.descriptor_pb2")
    given = types.FileDescriptorProto.FromString(Path(sys.argv[1]).read_bytes())
    print("\n".join(differences(given)))
