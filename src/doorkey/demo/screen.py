"""What `doorkey demo` shows: the keys, and lines to paste; then each decision as it is made."""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress

from .. import Decision, Denied, Granted, KeyType, Mode, Principal
from ..core.refusals import TABLE
from ..core.tokens import STANDARD, TokenFormat
from ..management.secrets import VARIABLE
from .stage import Stage


def first(stage: Stage, port: int) -> str:
    """The first screen. It alone shows whole tokens."""
    url = f"http://127.0.0.1:{port}"
    secret = stage.tokens[KeyType.SECRET, Mode.TEST].expose()
    publishable = stage.tokens[KeyType.PUBLISHABLE, Mode.TEST].expose()
    restricted = stage.ring.reveal(stage.restricted).expose()
    live_secret = stage.tokens[KeyType.SECRET, Mode.LIVE].expose()
    live_publishable = stage.tokens[KeyType.PUBLISHABLE, Mode.LIVE].expose()
    word = stage.door.profile.publishable_word
    end = "stops it and removes everything" if stage.temporary else f"stops it; all stays in {stage.folder}"
    command = f"{_program()} --store {stage.url}"
    return f"""
  doorkey demo: a small payments-and-messages service, and five keys to it

    Address              {url}
    Ctrl-C               {end}

    test  secret         {secret}
    test  {word:11}    {publishable}
    test  restricted     {restricted}    (to messages)
    live  secret         {live_secret}    (shown this once)
    live  {word:11}    {live_publishable}

  Paste into another terminal:

    A secret key may do everything, on the data of its mode.

      KEY={secret}
      curl -u "$KEY:" {url}/v1/charges -d amount=2000 -d currency=kes
      curl -u "$KEY:" {url}/v1/charges

    A {word} key may stand in a web page: it makes payment tokens, and nothing else (403).

      KEY={publishable}
      curl -u "$KEY:" {url}/v1/tokens -d 'card[number]=4242424242424242'
      curl -u "$KEY:" {url}/v1/charges

    A restricted key may do what it was made for, and nothing else (403).

      KEY={restricted}
      curl -u "$KEY:" {url}/v1/messages -d to=254722000000 -d body=Hello
      curl -u "$KEY:" {url}/v1/charges

    Without a key there is no way in (401).

      curl -i {url}/v1/charges

    The keys are managed from the command line. What is revoked there is refused with the next request (401).

      {command} keys list
      {command} keys revoke {stage.restricted} --because demo

  Each decision shows here as it is made:
"""


def tell(decision: Decision, format: TokenFormat = STANDARD) -> None:
    """Print one line about a decision. That nobody reads it must not fail a request."""
    with suppress(OSError):
        print(f"    {time.strftime('%H:%M:%S')}  {_told(decision, format)}", flush=True)


def _told(decision: Decision, format: TokenFormat) -> str:
    match decision:
        case Granted(principal):
            return f"granted  {_hint(principal, format)}"
        case Denied(reason, principal):
            return f"refused  {_hint(principal, format) if principal else '':18}  {TABLE[reason].code}"
        case _:
            return f"refused  {'':18}  {TABLE[None].code}"


def _hint(principal: Principal, format: TokenFormat) -> str:
    return format.hint(principal.type, principal.mode, principal.token_id)


def _program() -> str:
    """The command line, as it can be called from any terminal like this one; the store's secret stands beside it."""
    program = "doorkey" if shutil.which("doorkey") else f"{sys.executable} -m doorkey"
    return f"env -u {VARIABLE} {program}" if VARIABLE in os.environ else program
