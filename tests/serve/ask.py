"""Asks servers all that Triton's own client can.

    PYTHONPATH=tests python -m serve.ask http=HOST:PORT grpc=HOST:PORT own=HOST:PORT

prints for each table and row nothing (null) or what went wrong, as JSON. It runs in an environment
that has the client (tests/serve/clients-requirements.txt). The server has the models `dense`,
`pair` and `texts` of tests/serve/models.py, and lets clients load and unload them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

from serve.conformance import Table
from serve.conformance_grpc import GRPC, OWN
from serve.conformance_http import HTTP

TABLES: Mapping[str, Table] = {"http": HTTP, "grpc": GRPC, "own": OWN}


def main(arguments: Sequence[str]) -> None:
    """Asks the servers at the addresses `table=host:port`."""
    asked = (argument.partition("=") for argument in arguments)
    json.dump({name: TABLES[name].ask(address) for name, _, address in asked}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
