"""Who may do what: bearer tokens with rights on models.

The file of tokens is TOML; it holds digests, so that who reads it has no token:

    [[token]]
    name = "team-a"
    sha256 = "9f86d081..."              # of the token's bytes
    models = ["digits", "fraud-*"]      # default: all
    rights = ["infer", "control"]       # default: infer
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from naru.errors import InputError, nearest
from naru.serve.refusals import FORBIDDEN, UNAUTHENTICATED, Refusal

INFER = "infer"  # ask models, and what they are
CONTROL = "control"  # load, unload, change settings
METRICS = "metrics"
RIGHTS = (INFER, CONTROL, METRICS)
_KEYS = ("name", "sha256", "models", "rights")


@dataclass(frozen=True, slots=True)
class Token:
    """What the bearer of a token may do."""

    name: str
    models: tuple[str, ...]
    rights: tuple[str, ...]

    def may_see(self, model: str) -> bool:
        """Is the model one of its patterns'?"""
        return any(fnmatchcase(model, pattern) for pattern in self.models)


EVERYBODY = Token("everybody", ("*",), RIGHTS)


class Access:
    """The doors of a server: open to everybody, or to the bearers of tokens."""

    def __init__(self, tokens: Mapping[bytes, Token] | None = None) -> None:
        self._tokens = tokens

    @property
    def is_open(self) -> bool:
        """Is everybody let in?"""
        return self._tokens is None

    def bearer(self, authorization: str | None) -> Token:
        """The token of an Authorization header (RFC 6750). Raises a Refusal.

        Tokens are looked up by their digests, so that the time this takes says nothing of them."""
        if self._tokens is None:
            return EVERYBODY
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise Refusal(UNAUTHENTICATED, "expected a header 'Authorization: Bearer <token>'")
        # Bytes, as they came: HTTP's headers are read as Latin-1.
        digest = hashlib.sha256(secret.strip().encode("latin-1", "replace")).digest()
        token = self._tokens.get(digest)
        if token is None:
            raise Refusal(UNAUTHENTICATED, "the token is not known")
        return token


def require(token: Token, right: str, model: str | None = None) -> None:
    """Raises a Refusal where a token lacks a right, or a model is not one of its."""
    if right not in token.rights:
        raise Refusal(FORBIDDEN, f"the token '{token.name}' has no right to '{right}'")
    if model is not None and not token.may_see(model):
        raise Refusal(FORBIDDEN, f"the token '{token.name}' is not for the model '{model}'")


def read_tokens(path: Path) -> Access:
    """The doors that a file of tokens opens. Raises InputError, all problems at once."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from None
    problems = [f"there is no key '{k}', expected [[token]]" for k in given if k != "token"]
    tokens: dict[bytes, Token] = {}
    items = given.get("token", [])
    if not isinstance(items, list) or not items:
        problems.append("expected at least one [[token]]")
        items = []
    for k, item in enumerate(cast("list[Any]", items)):
        where = f"token {k + 1}"
        if not isinstance(item, dict):
            problems.append(f"{where}: expected a table")
            continue
        found = _read_token(cast("dict[str, Any]", item), where, problems)
        if found is not None:
            tokens[found[0]] = found[1]
    if problems:
        raise InputError("; ".join(problems), where=str(path))
    return Access(tokens)


def _read_token(
    item: Mapping[str, Any], where: str, problems: list[str]
) -> tuple[bytes, Token] | None:
    before = len(problems)
    for key in item:
        if key not in _KEYS:
            meant = nearest(key, _KEYS) or f"the keys are {', '.join(_KEYS)}"
            problems.append(f"{where}: there is no key '{key}'; {meant}")
    name = item.get("name", where)
    if not isinstance(name, str):
        problems.append(f"{where}: name: expected a text")
    digest = item.get("sha256")
    try:
        raw = bytes.fromhex(digest) if isinstance(digest, str) else b""
    except ValueError:
        raw = b""
    if len(raw) != 32:
        problems.append(f"{where}: sha256: expected 64 hex digits, as sha256sum prints")
    models, rights = item.get("models", ["*"]), item.get("rights", [INFER])
    if not _are_texts(models):
        problems.append(f"{where}: models: expected a list of names or patterns")
    if not _are_texts(rights) or any(r not in RIGHTS for r in rights):
        problems.append(f"{where}: rights: expected some of {', '.join(RIGHTS)}")
    if len(problems) > before:
        return None
    return raw, Token(name, tuple(models), tuple(rights))


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(v, str) for v in cast("Sequence[object]", value)
    )
