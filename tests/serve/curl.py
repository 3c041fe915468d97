"""The curl commands of a page, asked without a network."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from serve.asgi import Answer, ask
from serve.conftest import serving

from naru.serve.http import Application

_SHELL = re.compile(r"```sh\n(.*?)```\n", re.DOTALL)


def answers_to_curl(page: Path, models: Path) -> list[Answer]:
    """What a server of a folder of models answers to each curl command of a page, in order."""
    blocks = "".join(_SHELL.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ")
    commands = re.findall(r"(?m)^curl (?:[^'\n]|'[^']*')*", blocks)
    answers: list[Answer] = []

    async def run(app: Application) -> None:
        for command in commands:
            words = shlex.split(command)[1:]
            body = words[words.index("-d") + 1].encode() if "-d" in words else b""
            path = words[-1].removeprefix("localhost:8080")
            answers.append(await ask(app, "POST" if body else "GET", path, body))

    serving(models, run)
    return answers
