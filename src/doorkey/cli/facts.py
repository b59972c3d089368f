"""
What is told of a workspace, a key or an event: the values of the JSON documents, and what tables are made of.

Never a token, a digest or a sealed copy: of a token, its id and its hint.
"""

from __future__ import annotations

import json
from typing import Any

from ..core.tokens import TokenFormat
from ..management.audit import Head
from ..storage.protocol import Ending, Event, Key, StoredToken, Workspace
from .output import moment

Facts = dict[str, Any]


def of_workspace(workspace: Workspace) -> Facts:
    """States: provisioned (test keys alone), approved, suspended."""
    state = "provisioned" if workspace.approved_at is None else "approved"
    return {
        "id": workspace.id,
        "name": workspace.name,
        "state": state if workspace.suspended_at is None else "suspended",
        "created_at": moment(workspace.created_at),
        "approved_at": moment(workspace.approved_at),
        "suspended_at": moment(workspace.suspended_at),
        "events": workspace.events,
        "head": str(Head(workspace.events, workspace.head)),
    }


def of_key(key: Key, workspace: Workspace, format: TokenFormat, now: float) -> Facts:
    """
    States: active, rolling (its former token lives on until ``rolling_until``), expired, revoked, suspended.

    It was last used when any of its tokens was.
    """
    tokens = [of_token(token, key, format, now) for token in key.tokens]
    rolling = [token["expires_at"] for token in tokens if token["state"] == "rolling"]
    uses = [token.last_used_at for token in key.tokens if token.last_used_at is not None]
    if key.revoked_at is not None:
        state = "revoked"
    elif key.expires_at is not None and now >= key.expires_at:
        state = "expired"
    elif workspace.suspended_at is not None:
        state = "suspended"
    else:
        state = "rolling" if rolling else "active"
    return {
        "id": key.id,
        "workspace": key.workspace,
        "name": key.name,
        "type": key.type.value,
        "mode": key.mode.value,
        "state": state,
        "rolling_until": max(rolling) if state == "rolling" else None,
        "hint": tokens[0]["hint"] if tokens else None,
        "permissions": key.permissions,
        "networks": key.networks,
        "created_at": moment(key.created_at),
        "expires_at": moment(key.expires_at),
        "revoked_at": moment(key.revoked_at),
        "last_used_at": moment(max(uses, default=None)),
        "tokens": tokens,
    }


def of_token(token: StoredToken, key: Key, format: TokenFormat, now: float) -> Facts:
    """
    States: active, rolling (in its grace), rolled (its grace is over), revoked. Those of its key come on top.

    A token is *revealable* while a sealed copy of it is kept.
    """
    if key.revoked_at is not None or token.ended_as is Ending.REVOKED:
        state = "revoked"
    elif token.ended_as is Ending.ROLLED or (token.expires_at is not None and now >= token.expires_at):
        state = "rolled"
    else:
        state = "active" if token.expires_at is None else "rolling"
    return {
        "id": token.id,
        "hint": format.hint(key.type, key.mode, token.id),
        "state": state,
        "created_at": moment(token.created_at),
        "expires_at": moment(token.expires_at),
        "ended_at": moment(token.ended_at),
        "last_used_at": moment(token.last_used_at),
        "revealable": token.sealed is not None,
    }


def of_event(event: Event) -> Facts:
    """``head`` is what the event made the head of its chain."""
    try:
        detail = json.loads(event.detail)
    except ValueError:
        detail = event.detail  # changed by others; `audit verify` tells so
    return {
        "workspace": event.workspace,
        "sequence": event.sequence,
        "at": moment(event.at),
        "actor": event.actor,
        "action": event.action,
        "key": event.key,
        "detail": detail,
        "head": str(Head(event.sequence, event.hash)),
    }
