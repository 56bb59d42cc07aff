"""Commands about who may call: keys add, list, revoke."""

from __future__ import annotations

from typing import Annotated

import typer

from mobile_sentiment_ops.cli.session import Json, answer, session_of
from mobile_sentiment_ops.types import ApiKey, Role

commands = typer.Typer(rich_markup_mode=None)
keys = typer.Typer(rich_markup_mode=None, help="The API keys: who may call from other machines.")
commands.add_typer(keys, name="keys")


@keys.command("add")
def keys_add(
    context: typer.Context,
    name: str,
    role: Annotated[Role, typer.Option(help="predict: read and predict; operate: everything.")] = "predict",
    app: Annotated[list[str] | None, typer.Option(help="Only reviews of this app; may be repeated.")] = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="How long it is valid; else until revoked.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make an API key for NAME and print it: this once, as only its hash is kept.

    A name has at most two keys, so that a new one can replace the old one while both are valid.

    \b
    mso keys add shop-backend
    mso keys add shop-backend --app shop --app bank --days 90
    mso keys add admin --role operate --json
    """
    from mobile_sentiment_ops.app.api_keys import add_key, new_key
    from mobile_sentiment_ops.bootstrap import actor

    found = session_of(context).platform()
    text, new = new_key(name, role, app or (), days=days, now=found.clock.now())
    add_key(found.keys, found.state, new, actor=actor())
    answer(as_json, {"key": text, **_shown(new)}, ("", ""), [("key", text), ("id", new.key_id)])


@keys.command("list")
def keys_list(context: typer.Context, as_json: Json = False) -> None:
    """List API keys, each by its id and the last four characters.

    \b
    mso keys list
    """
    found = session_of(context).platform().keys.list()
    rows = []
    for key in found:
        times = (at and f"{at:%Y-%m-%d %H:%M}" for at in (key.created_at, key.expires_at))
        rows.append((key.key_id, key.name, key.role, ", ".join(key.apps) or "all", *times, key.last4))
    columns = ("id", "name", "role", "apps", "made (UTC)", "ends (UTC)", "last 4")
    answer(as_json, {"keys": [_shown(key) for key in found]}, columns, rows)


@keys.command("revoke")
def keys_revoke(
    context: typer.Context, key_id: Annotated[str, typer.Argument(metavar="ID")], as_json: Json = False
) -> None:
    """Take an API key away; running servers refuse it within a second.

    \b
    mso keys revoke 1f09a2c4
    """
    from mobile_sentiment_ops.app.api_keys import revoke_key
    from mobile_sentiment_ops.bootstrap import actor

    found = session_of(context).platform()
    gone = revoke_key(found.keys, found.state, key_id, actor=actor())
    told = {"revoked": gone.key_id, "name": gone.name}
    answer(as_json, told, ("", ""), [("revoked", f"{gone.key_id} of {gone.name}")])


def _shown(key: ApiKey) -> dict[str, object]:
    """What people may see of a key."""
    seen = ("name", "role", "apps", "last4", "created_at", "expires_at")
    return {"id": key.key_id, **{name: getattr(key, name) for name in seen}}
