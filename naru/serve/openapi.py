"""The server's description in OpenAPI 3.1: what it really does, which the protocol's own
description is not (its paths need versions, and hold `${…}`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from naru.serve.datatypes import DTYPES
from naru.serve.tracing import LEVELS
from naru.version import VERSION

Json = dict[str, Any]
_ERROR: Json = {"$ref": "#/components/schemas/Error"}
_OBJECT: Json = {"type": "object"}


def describe(names: Sequence[str]) -> Json:
    """The document for `GET /openapi.json`, with names of models as examples."""
    name = _parameter("model", names)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "naru",
            "version": VERSION,
            "description": "The Open Inference Protocol v2 and its extensions.",
        },
        "paths": {**_server_paths(), **_model_paths(name), **_control_paths(name)},
        "components": {
            "schemas": {**_server_schemas(), **_tensor_schemas(), **_settings_schemas()}
        },
    }


def _server_paths() -> Json:
    return {
        "/v2": {"get": _operation("Server metadata", _ref("ServerMetadata"))},
        "/v2/health/live": {"get": _operation("Is the server alive?", _ref("Live"))},
        "/v2/health/ready": {
            "get": _operation("May requests be sent?", _ref("Ready"), also={503: _ref("Ready")})
        },
        "/v2/models": {"get": _operation("Names of the models", _OBJECT, 401, 403)},
        "/v2/models/stats": {"get": _operation("Statistics of all models", _OBJECT, 401, 403)},
        "/v2/repository/index": {
            "post": _operation(
                "The models and their states",
                {"type": "array", "items": _OBJECT},
                400, 401, 403, 408, 413, 415,
                body=({"type": "object", "properties": {"ready": {"type": "boolean"}}}, False),
            )
        },
        "/v2/trace/setting": _settings("Trace settings", "TraceSettings"),
        "/v2/logging": _settings("Log settings", "LogSettings"),
        "/metrics": {
            "get": {
                "summary": "Metrics for Prometheus",
                "responses": {"200": {"description": "text"}, **_errors(401, 403)},
            }
        },
        "/openapi.json": {"get": _operation("This document", _OBJECT)},
    }  # fmt: skip


def _model_paths(name: Json) -> Json:
    paths: Json = {}
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        parameters = [name]
        if "{version}" in path:
            parameters.append(_parameter("version", []))
        paths[path] = {
            "parameters": parameters,
            "get": _operation("Model metadata", _ref("ModelMetadata"), 401, 403, 404, 503),
        }
        paths[f"{path}/ready"] = {
            "parameters": parameters,
            "get": _operation(
                "Would a request be answered?", _ref("ModelReady"), 401, 403, 404,
                also={503: _ref("ModelReady")},
            ),
        }  # fmt: skip
        paths[f"{path}/infer"] = {"parameters": parameters, "post": _infer()}
        paths[f"{path}/config"] = {
            "parameters": parameters,
            "get": _operation("The configuration, in Triton's words", _OBJECT, 401, 403, 404, 503),
        }
        paths[f"{path}/stats"] = {
            "parameters": parameters,
            "get": _operation("Statistics", _OBJECT, 401, 403, 404, 503),
        }
    return paths


def _control_paths(name: Json) -> Json:
    trace = _settings("Trace settings of the model", "TraceSettings", 404)
    paths: Json = {"/v2/models/{model}/trace/setting": {"parameters": [name], **trace}}
    for verb in ("load", "unload"):
        paths[f"/v2/repository/models/{{model}}/{verb}"] = {
            "parameters": [name],
            "post": _operation(
                f"{verb} a model", _OBJECT, 400, 401, 403, 404, 408, 413, 415, 501, 503,
                body=(_OBJECT, False),
            ),
        }  # fmt: skip
    return paths


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _parameter(name: str, values: Sequence[str]) -> Json:
    schema: Json = {"type": "string"}
    if 0 < len(values) <= 100:
        schema["examples"] = list(values)
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _content(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _errors(*statuses: int) -> Json:
    return {
        str(s): {"description": "an error", "content": _content(_ERROR)}
        for s in sorted({*statuses, 431, 500, 503})  # of all: a head too long, and too much to do
    }


def _operation(
    summary: str,
    result: Json,
    *statuses: int,
    also: dict[int, Json] | None = None,
    body: tuple[Json, bool] | None = None,
) -> Json:
    responses: Json = {"200": {"description": "the answer", "content": _content(result)}}
    responses |= _errors(*statuses)
    for status, schema in (also or {}).items():
        either = {"anyOf": [schema, _ERROR]}
        responses[str(status)] = {"description": "not now", "content": _content(either)}
    operation: Json = {"summary": summary, "responses": responses}
    if body is not None:
        operation["requestBody"] = {"required": body[1], "content": _content(body[0])}
    return operation


def _settings(what: str, schema: str, *statuses: int) -> Json:
    return {
        "get": _operation(what, _OBJECT, 401, 403, *statuses),
        "post": _operation(
            f"Change the {what[0].lower()}{what[1:]}", _OBJECT,
            400, 401, 403, 408, 413, 415, *statuses,
            body=(_ref(schema), False),
        ),
    }  # fmt: skip


def _infer() -> Json:
    operation = _operation(
        "Run the model", _ref("InferenceResponse"),
        400, 401, 403, 404, 408, 413, 415, 501, 503, 504,
    )  # fmt: skip
    operation["parameters"] = [
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "required": False,
            "description": "bytes of JSON in front of raw tensors; 0: all of the body is raw",
            "schema": {"type": "integer", "minimum": 0},
        }
    ]
    operation["requestBody"] = {
        "required": False,  # an empty raw body is an empty text
        "content": {
            "application/json": {
                "schema": {"anyOf": [_ref("InferenceRequest"), {"type": "array"}]}
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "application/vnd.apache.arrow.stream": {
                "schema": {"type": "string", "format": "binary"}
            },
        },
    }
    raw = {"schema": {"type": "string", "format": "binary"}}
    content = operation["responses"]["200"]["content"]
    content["application/octet-stream"] = raw
    content["application/vnd.apache.arrow.stream"] = raw
    return operation


_TEXT: Json = {"type": "string"}
_DATATYPE: Json = {"type": "string", "enum": list(DTYPES)}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _server_schemas() -> Json:
    flag: Json = {"type": "boolean"}
    shape = _list({"type": "integer", "minimum": -1})
    metadata: Json = _object(
        {"name": _TEXT, "datatype": _DATATYPE, "shape": shape}, "name", "datatype", "shape"
    )
    return {
        "Error": _object({"error": _TEXT}, "error"),
        "Live": _object({"live": flag}, "live"),
        "Ready": _object({"ready": flag}, "ready"),
        "ModelReady": _object({"name": _TEXT, "ready": flag}, "name", "ready"),
        "ServerMetadata": _object(
            {"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)},
            "name", "version", "extensions",
        ),
        "ModelMetadata": _object(
            {
                "name": _TEXT,
                "versions": _list(_TEXT),
                "platform": _TEXT,
                "inputs": _list(metadata),
                "outputs": _list(metadata),
            },
            "name", "platform", "inputs", "outputs",
        ),
    }  # fmt: skip


def _tensor_schemas() -> Json:
    """Requests and answers; null is the same as not given."""
    parameters = _or_null(
        {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
    )
    tensor: Json = _object(
        {
            "name": _TEXT,
            "datatype": _DATATYPE,
            "shape": _list({"type": "integer", "minimum": 0}),
            "parameters": parameters,
            "data": {"type": "array"},
        },
        "name", "datatype", "shape",
    )  # fmt: skip
    wish = _object({"name": _TEXT, "parameters": parameters}, "name")
    request: Json = {
        "id": _or_null(_TEXT),
        "parameters": parameters,
        "inputs": _list(tensor),
        "outputs": _or_null(_list(wish)),
    }
    response: Json = {
        "model_name": _TEXT,
        "model_version": _TEXT,
        "id": _TEXT,
        "outputs": {"anyOf": [_list(tensor), _OBJECT]},
    }
    return {
        "InferenceRequest": _object(request, "inputs"),
        "InferenceResponse": _object(response, "model_name", "outputs"),
    }


def _settings_schemas() -> Json:
    """What can be changed of traces and of the log; null is the value of before."""
    level: Json = {"enum": list(LEVELS)}
    whole: Json = {
        "anyOf": [
            {"type": "integer", "minimum": 1 - 10**17, "maximum": 10**18 - 1},
            {"type": "string", "pattern": "^-?[0-9]{1,17}$"},
        ]
    }
    number = {"anyOf": [whole, {**_list(whole), "minItems": 1, "maxItems": 1}]}
    levels = {"anyOf": [level, {**_list(level), "minItems": 1}]}
    settings = (("trace_level", levels), ("trace_rate", number), ("trace_count", number))
    trace: Json = {k: _or_null(schema) for k, schema in settings}
    log: Json = {k: {"type": "boolean"} for k in ("log_info", "log_warning", "log_error")}
    log["log_verbose_level"] = {"type": "integer", "minimum": 0, "maximum": (1 << 31) - 1}
    return {
        name: {**_object(properties), "additionalProperties": False}
        for name, properties in (("TraceSettings", trace), ("LogSettings", log))
    }


def _object(properties: Json, *required: str) -> Json:
    return {"type": "object", "properties": properties, "required": list(required)}
