"""Asks an ASGI application of a test's own, in one line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from doorkey.core.tokens import Token
from doorkey.testing import basic
from tests.adapters import wire
from tests.adapters.table import Row


def ask(app: Any, target: str, token: Token | None = None, **fields: Any) -> wire.Answer:
    """What *app* answers; *fields* are those of a row of the table."""
    row = Row("", None if token is None else basic(token), target=target, **fields)
    return wire.over_asgi(app, wire.scope_of(row, {}))


def verdict(app: Any, target: str, token: Token | None = None, **fields: Any) -> str | int:
    """The code of the refusal, or the status of another answer; a HEAD's status."""
    answer = ask(app, target, token, **fields)
    try:
        code: str = json.loads(answer.body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return answer.status
    return code


def crowd(app: Any, target: str, tokens: Sequence[Token]) -> list[Any]:
    """The JSON that *app* answers to a thousand requests at once, which take turns with *tokens*."""

    async def one(token: Token) -> Any:
        body = b""

        async def receive() -> wire.Message:
            return {"type": "http.request"}

        async def send(message: wire.Message) -> None:
            nonlocal body
            await asyncio.sleep(0)
            body += message.get("body", b"")

        await app(wire.scope_of(Row("", basic(token), target=target), {}), receive, send)
        return json.loads(body)

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(one(tokens[number % len(tokens)]) for number in range(1000)))

    return asyncio.run(all_of_them())
