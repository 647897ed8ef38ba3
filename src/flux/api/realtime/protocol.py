"""Phoenix channels as Supabase's clients speak them: frames in, frames out. Pure.

Two versions, which the client names in the socket's URL (``vsn``)::

    2.0.0  ["1", "7", "realtime:fleet", "heartbeat", {}]                                  (supabase-js)
    1.0.0  {"topic": …, "event": …, "payload": …, "ref": "7", "join_ref": "1"}            (Python's realtime)

Clients of version 2 send broadcasts as binary frames: a byte for the kind (3), the lengths of join_ref, ref, topic,
event and metadata, the encoding, then those texts and the payload. They are read as far as an answer needs.
"""

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from flux.errors import InputError

HEARTBEAT_TOPIC = "phoenix"
TOPIC_PREFIX = "realtime:"
LONGEST_TOPIC = 255
_BROADCAST_PUSH = 3
_PUSH_HEADER = 7


class Version(StrEnum):
    """How frames are written."""

    OBJECTS = "1.0.0"
    ARRAYS = "2.0.0"


class Event(StrEnum):
    """The events of a channel that mean something to both sides."""

    JOIN = "phx_join"
    LEAVE = "phx_leave"
    REPLY = "phx_reply"
    CLOSE = "phx_close"
    ERROR = "phx_error"
    HEARTBEAT = "heartbeat"
    ACCESS_TOKEN = "access_token"  # noqa: S105 - the name of an event
    SYSTEM = "system"
    CHANGES = "postgres_changes"
    BROADCAST = "broadcast"
    PRESENCE = "presence"


@dataclass(frozen=True, slots=True)
class Frame:
    """What a client sent; ``ref`` None: it wants no answer."""

    topic: str
    event: str
    payload: dict[str, Any] = field(default_factory=dict)
    ref: str | None = None
    join_ref: str | None = None


def version_of(vsn: str | None) -> Version:
    """By the URL's ``vsn``; without one 1.0.0, as Python's client has it. InputError for another one."""
    try:
        return Version(vsn or Version.OBJECTS)
    except ValueError:
        raise InputError(f"vsn is one of {', '.join(Version)}") from None


def decode(version: Version, data: str | bytes) -> Frame:
    """One message of a client; InputError where it is none."""
    if isinstance(data, bytes):
        return _decode_push(data)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise InputError("a message is JSON") from None
    if version is Version.ARRAYS:
        if not isinstance(found, list) or len(found) != 5:
            raise InputError("a message of version 2.0.0 is [join_ref, ref, topic, event, payload]")
        join_ref, ref, topic, event, payload = found
    else:
        if not isinstance(found, dict):
            raise InputError('a message of version 1.0.0 is {"topic", "event", "payload", "ref"}')
        join_ref, ref, topic, event, payload = (
            found.get(name) for name in ("join_ref", "ref", "topic", "event", "payload")
        )
    if not isinstance(topic, str) or not isinstance(event, str) or len(topic) > LONGEST_TOPIC:
        raise InputError(f"topic and event are texts, the topic of at most {LONGEST_TOPIC} characters")
    if payload is not None and not isinstance(payload, dict):
        raise InputError("the payload is an object")
    return Frame(topic, event, payload or {}, _reference(ref), _reference(join_ref))


def _reference(given: Any) -> str | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, str | int) or len(str(given)) > 64:
        raise InputError("ref and join_ref are short texts")
    return str(given)


def _decode_push(data: bytes) -> Frame:
    if len(data) < _PUSH_HEADER or data[0] != _BROADCAST_PUSH:
        raise InputError("a binary message is a broadcast")
    texts = []
    begin = _PUSH_HEADER
    for length in data[1:6]:
        texts.append(data[begin : begin + length])
        begin += length
    if begin > len(data):
        raise InputError("a binary message is shorter than it says")
    try:
        join_ref, ref, topic, event, _metadata = (text.decode() for text in texts)
    except UnicodeDecodeError:
        raise InputError("the names in a binary message are UTF-8") from None
    return Frame(topic, Event.BROADCAST, {"type": "broadcast", "event": event}, ref or None, join_ref or None)


@dataclass(frozen=True, slots=True)
class Address:
    """Where messages of a channel go: its topic and the join that they belong to, as one socket writes them."""

    version: Version
    topic: str
    join_ref: str | None

    def message(self, event: str, payload: str, ref: str | None = None) -> str:
        """The text of a frame; ``payload`` is JSON already, so that one row is written once for all subscribers."""
        topic, join_ref, written = json.dumps(self.topic), json.dumps(self.join_ref), json.dumps(ref)
        if self.version is Version.ARRAYS:
            return f'[{join_ref},{written},{topic},"{event}",{payload}]'
        return f'{{"topic":{topic},"event":"{event}","payload":{payload},"ref":{written},"join_ref":{join_ref}}}'

    def reply(self, ref: str | None, status: str, response: dict[str, Any]) -> str:
        """The answer to the message with this ``ref``."""
        return self.message(Event.REPLY, json.dumps({"status": status, "response": response}), ref)

    def system(self, status: str, text: str, extension: str = "postgres_changes", **more: Any) -> str:
        """What the server tells of the channel itself."""
        channel = self.topic.removeprefix(TOPIC_PREFIX)
        told = {"channel": channel, "extension": extension, "message": text, "status": status, **more}
        return self.message(Event.SYSTEM, json.dumps(told))

    def broadcast(self, event: str, payload: dict[str, Any]) -> str:
        """What a client hears as a broadcast: the only extra that the official ones hand on whole."""
        told = {"type": "broadcast", "event": event, "payload": payload}
        return self.message(Event.BROADCAST, json.dumps(told))
