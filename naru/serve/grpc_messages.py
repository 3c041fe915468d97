"""The messages of the protocol, made from inference.proto when this module is imported.

They live in a pool of their own, so that other packages with messages of the same names, Triton's
client for one, may be imported into the same process, before or after.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from naru.serve.refusals import INVALID, Refusal

SERVICE = "inference.GRPCInferenceService"
_FILE = "inference.proto"
_TOKEN = re.compile(r'//.*|"[^"]*"|[A-Za-z_][\w.]*|\d+|\S')
_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    name: getattr(_Field, f"TYPE_{name.upper()}")
    for name in (
        "bool", "bytes", "double", "float", "int32", "int64", "string", "uint32", "uint64",
    )
}  # fmt: skip


class _Reader:
    """A .proto file as its descriptor: as much of the language (proto3) as inference.proto uses.
    Names of types are left as they are written; the pool finds what they mean."""

    def __init__(self, name: str, text: str) -> None:
        self.file = descriptor_pb2.FileDescriptorProto(name=name, syntax="proto3")
        self._tokens = iter(t for t in _TOKEN.findall(text) if not t.startswith("//"))
        for word in self._tokens:
            if word == "message":
                self._message(self.file.message_type.add())
            elif word == "enum":
                self._enum(self.file.enum_type.add())
            elif word == "service":
                self._service(self.file.service.add())
            elif word == "package":
                self.file.package = self._statement()[0]
            else:  # syntax
                self._statement()

    def _statement(self) -> list[str]:
        """What stands before the next semicolon."""
        return list(iter(self._tokens.__next__, ";"))

    def _block(self) -> Iterator[str]:
        """The first word of each thing in braces; who takes one takes the rest of it too."""
        return iter(self._tokens.__next__, "}")

    def _named(self, thing: Any) -> Iterator[str]:
        thing.name = next(self._tokens)
        next(self._tokens)  # the brace
        return self._block()

    def _message(self, message: Any) -> None:
        for word in self._named(message):
            if word == "message":
                self._message(message.nested_type.add())
            elif word == "enum":
                self._enum(message.enum_type.add())
            elif word == "oneof":
                for member in self._named(message.oneof_decl.add()):
                    field = self._field(message, member)
                    field.oneof_index = len(message.oneof_decl) - 1
            else:
                self._field(message, word)

    def _field(self, message: Any, word: str) -> Any:
        """[repeated] type name = number; or map<key, value> name = number;"""
        *kind, name, _, number = [word, *self._statement()]
        field = message.field.add(name=name, number=int(number))
        repeated = kind[0] in ("repeated", "map")
        field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
        if kind[0] != "map":
            _set_type(field, kind[-1])
            return field
        _, _, key, _, value, _ = kind
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        for k, (part, its) in enumerate((("key", key), ("value", value)), start=1):
            _set_type(entry.field.add(name=part, number=k, label=_Field.LABEL_OPTIONAL), its)
        _set_type(field, entry.name)
        return field

    def _enum(self, enum: Any) -> None:
        for word in self._named(enum):
            _, number = self._statement()
            enum.value.add(name=word, number=int(number))

    def _service(self, service: Any) -> None:
        """rpc name([stream] request) returns ([stream] response);"""
        for _ in self._named(service):
            name, *words = [w for w in self._statement() if w not in "()"]
            split = words.index("returns")
            asked, told = words[:split], words[split + 1 :]
            service.method.add(
                name=name,
                input_type=asked[-1],
                output_type=told[-1],
                client_streaming="stream" in asked,
                server_streaming="stream" in told,
            )


def _set_type(field: Any, name: str) -> None:
    if name in _SCALARS:
        field.type = _SCALARS[name]
    else:
        field.type_name = name


def _read() -> descriptor_pool.DescriptorPool:
    text = resources.files("naru.serve").joinpath(_FILE).read_text(encoding="utf-8")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_Reader(_FILE, text).file)  # type: ignore[no-untyped-call]
    return pool


POOL = _read()
METHODS: dict[str, Any] = dict(POOL.FindServiceByName(SERVICE).methods_by_name)


def message(name: str) -> Any:
    """The class of a message: `message("ModelInferRequest")`. Raises KeyError for another name."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}"))


def parse(kind: Any, data: bytes) -> Any:
    """A message of its bytes. Raises a Refusal."""
    try:
        return kind.FromString(data)
    except DecodeError:
        name = kind.DESCRIPTOR.full_name
        raise Refusal(INVALID, f"expected a message {name}, the bytes are none") from None


ModelInferRequest = message("ModelInferRequest")
ModelInferResponse = message("ModelInferResponse")
ModelStreamInferResponse = message("ModelStreamInferResponse")
