"""Commands about who may call: keys add, list, revoke."""

from __future__ import annotations

from typing import Annotated

import typer

from mobile_sentiment_ops.cli.session import Json, answer, session_of
from mobile_sentiment_ops.types import Role

commands = typer.Typer(rich_markup_mode=None)
keys = typer.Typer(rich_markup_mode=None, help="The API keys: who may call from other machines.")
commands.add_typer(keys, name="keys")

COLUMNS = ("id", "name", "role", "apps", "made (UTC)", "ends (UTC)", "key")


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
    from mobile_sentiment_ops.app.api_keys import add_key
    from mobile_sentiment_ops.bootstrap import actor

    found = session_of(context).platform()
    text, kept = add_key(
        found.keys, found.state, found.clock, name=name, role=role, apps=app or (), days=days, actor=actor()
    )
    told = {"id": kept.key_id, "name": name, "role": role, "apps": kept.apps, "expires_at": kept.expires_at}
    answer(as_json, {"key": text, **told}, ("", ""), [("key", text), ("id", kept.key_id)])


@keys.command("list")
def keys_list(context: typer.Context, as_json: Json = False) -> None:
    """List API keys, each by its id and the last four characters.

    \b
    mso keys list
    """
    from dataclasses import asdict

    found = session_of(context).platform().keys.list()
    rows = [
        (
            key.key_id,
            key.name,
            key.role,
            ", ".join(key.apps) or "all",
            f"{key.created_at:%Y-%m-%d %H:%M}",
            f"{key.expires_at:%Y-%m-%d %H:%M}" if key.expires_at else None,
            f"...{key.last4}",
        )
        for key in found
    ]
    shown = [{name: value for name, value in asdict(key).items() if name not in ("digest", "meter")} for key in found]
    answer(as_json, {"keys": shown}, COLUMNS, rows)


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
    gone = revoke_key(found.keys, found.state, key_id=key_id, actor=actor())
    answer(
        as_json, {"revoked": gone.key_id, "name": gone.name}, ("", ""), [("revoked", f"{gone.key_id} of {gone.name}")]
    )
