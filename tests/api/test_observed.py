"""What the log says of a request, and what a caller hears of a bug."""

from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send
from structlog.testing import capture_logs

from flux.api.observed import Observed

SCOPE = {
    "type": "http",
    "method": "GET",
    "path": "/v1/devices",
    "raw_path": b"/v1/devices",
    "query_string": b"token=hunter2",
    "headers": [(b"apikey", b"hunter2"), (b"x-request-id", b"proxy-17")],
    "client": ("192.0.2.1", 5),
}


async def nothing() -> Message:
    return {"type": "http.disconnect"}


async def through(app: Any, **options: Any) -> tuple[list[Message], list[Any]]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    times = iter([10.0, 10.25])
    with capture_logs() as told:
        await Observed(app, lambda: next(times), **options)(dict(SCOPE), nothing, send)
    return sent, told


def answering(status: int) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    return app


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise ZeroDivisionError("of hunter2")


async def test_one_line_without_query_and_headers() -> None:
    sent, (line,) = await through(answering(200))
    assert (line["method"], line["path"], line["status"], line["ms"]) == ("GET", "/v1/devices", 200, 250.0)
    assert (line["address"], line["request"], line["role"]) == ("192.0.2.1", "proxy-17", "anon")
    assert "hunter2" not in str(line)
    assert (b"x-request-id", b"proxy-17") in sent[0]["headers"]


async def test_only_what_went_wrong_where_the_log_is_off() -> None:
    assert (await through(answering(200), log=False))[1] == []
    _, (line,) = await through(answering(503), log=False)
    assert (line["status"], line["log_level"]) == (503, "warning")


async def test_a_bug_is_told_to_the_log_and_its_id_to_the_caller() -> None:
    sent, told = await through(broken)
    assert sent[0]["status"] == 500
    assert b"proxy-17" in sent[1]["body"]
    assert b"hunter2" not in sent[1]["body"]
    assert told[0]["exc_info"]
    assert told[1]["status"] == 500


async def test_an_answer_that_has_begun_is_cut_off() -> None:
    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await through(half)
