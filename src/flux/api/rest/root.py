"""``/rest/v1/``: what there is, for whoever asks."""

import json

from flux.api.rest.errors import ApiError
from flux.api.rest.exchange import Reply, Request, check_profile
from flux.api.rest.execute import check_key
from flux.api.rest.openapi import MEDIA_TYPE, describe
from flux.api.rest.room import Room

_TAKEN = {"*/*", "application/*", "application/json", MEDIA_TYPE}


async def describe_root(room: Room, request: Request) -> Reply:
    """``GET /``: the description of what the caller's role may do. ApiError 406 where the client takes no JSON."""
    profile = check_profile(request)
    accept = request.headers.get("accept") or "*/*"
    if not _TAKEN & {part.partition(";")[0].strip().lower() for part in accept.split(",")}:
        raise ApiError(406, "PGRST107", f"None of these media types are available: {accept[:1000]}")
    await check_key(room.pool, request.identity, room.limits.statement_ms)
    catalogue = await room.catalogue()
    role = request.identity.role

    def made() -> bytes:
        described = describe(catalogue.tables.values(), catalogue.functions, role)
        return json.dumps(described, ensure_ascii=False).encode()

    body = room.description(catalogue, role, made)
    if host := request.headers.get("host"):
        body = b'{"host": ' + json.dumps(host).encode() + b", " + body.removeprefix(b"{")
    headers = (("Content-Type", f"{MEDIA_TYPE}; charset=utf-8"), *profile)
    return Reply(200, headers, body)
