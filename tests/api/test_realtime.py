"""Realtime over real sockets, on a real database: the official Python client, and raw frames of version 2.0.0."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.api.live import LiveServer, live_server_on
from tests.api.phoenix import TOPIC, on, phoenix
from tests.support import NOON, add_device, fetch, meter_reading
from websockets.exceptions import ConnectionClosed, InvalidStatus

from flux.store.ingest import ingest
from flux.store.lifecycle import run_retention
from flux.store.rollups import refresh
from realtime import AsyncRealtimeClient, RealtimePostgresChangesListenEvent

Conn = AsyncConnection[Any]
Listen = RealtimePostgresChangesListenEvent
MINUTE = timedelta(minutes=1)


async def test_the_official_client_hears_what_it_asked_for(db: Conn, live_server: LiveServer) -> None:
    first, second = [await add_device(db, name) for name in ("M1", "M2")]
    heard: asyncio.Queue[Any] = asyncio.Queue()
    everything: asyncio.Queue[Any] = asyncio.Queue()
    ready = asyncio.Event()
    client = AsyncRealtimeClient(f"{live_server.url}/realtime/v1", live_server.key("authenticated"))
    channel = client.channel("fleet")
    channel.on_postgres_changes(Listen.Insert, heard.put_nowait, "mg_meter_readings", "flux", f"device_id=eq.{first}")
    channel.on_postgres_changes(Listen.All, everything.put_nowait, "mg_meter_readings")
    channel.on_system(lambda _: ready.set())
    states: list[str] = []
    await channel.subscribe(lambda state, _: states.append(state.value))
    async with asyncio.timeout(10):
        await ready.wait()
        await ingest(db, [meter_reading(device, NOON, frequency=50.25) for device in (second, first)])
        told = await heard.get()
        await db.execute("UPDATE flux.mg_meter_readings SET frequency = 49 WHERE device_id = %s", (first,))
        all_told = [(await everything.get())["data"] for _ in range(3)]
        await db.execute("DELETE FROM flux.mg_meter_readings WHERE device_id = %s", (first,))
        all_told.append((await everything.get())["data"])
    assert states == ["SUBSCRIBED"]
    assert told["data"]["record"]["device_id"] == str(first)
    assert told["data"]["record"]["frequency"] == 50.25
    assert {"name": "frequency", "type": "float4"} in told["data"]["columns"]
    assert [data["type"].value for data in all_told] == ["INSERT", "INSERT", "UPDATE", "DELETE"]
    key = {"device_id": str(first), "time": "2026-01-15T12:00:00+00:00"}
    assert all_told[2]["old_record"] == key == all_told[3]["old_record"]
    assert all_told[2]["record"]["frequency"] == 49
    assert heard.empty()
    await channel.unsubscribe()
    async with asyncio.timeout(10):
        while states[-1] != "CLOSED":
            await asyncio.sleep(0.01)
    await client.close()


async def test_the_official_client_is_told_why_it_may_not(module_server: LiveServer) -> None:
    client = AsyncRealtimeClient(f"{module_server.url}/realtime/v1", module_server.key("authenticated"))
    states: list[Any] = []
    channel = client.channel("keys")
    channel.on_postgres_changes(Listen.All, states.append, "api_keys", "flux")
    await channel.subscribe(lambda state, error: states.append((state.value, str(error))))
    assert states[0][0] == "CHANNEL_ERROR"
    assert "there is none of this name that this key may follow" in states[0][1]
    await client.close()


async def test_what_comes_in_that_is_not_asked_for_is_answered(module_server: LiveServer) -> None:
    async with phoenix(module_server) as client:
        assert await client.ask("heartbeat", topic="phoenix") == {"status": "ok", "response": {}}
        answer = await client.ask("shout")
        assert answer == {"status": "error", "response": {"reason": "unmatched topic: join it first"}}
        assert (await client.join())["status"] == "ok"
        assert (await client.ask("shout"))["response"] == {"reason": "unmatched event 'shout'"}
        assert "not served" in (await client.ask("presence", {"event": "track"}))["response"]["reason"]
        assert "topics begin with" in (await client.ask("phx_join", topic="fleet"))["response"]["reason"]
        pushed = bytes([3, 1, 1, len(TOPIC), 4, 0, 1]) + b"19" + TOPIC.encode() + b"ping" + b"{}"
        await client.connection.send(pushed)
        refused = await client.until("phx_reply")
        assert "not served" in refused["response"]["reason"]
        assert (await client.ask("phx_leave"))["status"] == "ok"
        assert await client.until("phx_close") == {}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("hello", "a message is JSON"),
        ("[1,2,3]", "a message of version 2.0.0 is"),
        ('["1","1",7,"phx_join",{}]', "topic and event are texts"),
        ("x" * 70_000, "a message has at most 65536 bytes"),
        (b"\x09\x00\x00\x00\x00\x00\x00", "a binary message is a broadcast"),
    ],
)
async def test_what_is_no_message_ends_the_socket(module_server: LiveServer, message: Any, reason: str) -> None:
    async with phoenix(module_server) as client:
        await client.connection.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            await client.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
        assert reason in closed.value.rcvd.reason


@pytest.mark.parametrize(
    ("binding", "reason"),
    [
        (on("nothing"), "table 'nothing': there is none of this name"),
        (on(filter="site=eq.WLCE"), "a filter needs a table"),
        (on("alerts", filter="nothing=eq.1"), "alerts has no column 'nothing'"),
        (on("alerts", filter="id=eq.one"), "invalid input syntax for type bigint"),
        (on("alerts", filter="text=match.a+"), "match is not served"),
        (on("alerts", filter="id=like.1%"), "like is for texts"),
        (on("alerts", select=["secret"]), "alerts has no column 'secret'"),
        (on("alerts", schema="flux_api"), "schema is flux"),
        (on("alerts", event="TRUNCATE"), "event is one of"),
        (on("alerts", filter="text=eq.\ud800"), "not Unicode"),
        (on("mg_device_registry", filter="metadata=eq." + 20_000 * "["), "stack depth limit exceeded"),
    ],
)
async def test_what_cannot_be_followed(module_server: LiveServer, binding: dict[str, Any], reason: str) -> None:
    async with phoenix(module_server) as client:
        answer = await client.join(binding)
        assert answer["status"] == "error"
        assert reason in answer["response"]["reason"]


async def test_a_key_of_one_site_hears_nothing_of_another(db: Conn, live_server: LiveServer) -> None:
    ours, theirs = await add_device(db, "WLCE-M"), await add_device(db, "HMCE-M", site="HMCE")
    async with phoenix(live_server, sites=["WLCE"]) as fenced, phoenix(live_server) as free:
        for client in (fenced, free):
            assert (await client.join(on()))["status"] == "ok"
        both = [theirs, ours]
        await ingest(db, [meter_reading(device, NOON, frequency=50, energy_imported_active=5) for device in both])
        await db.execute("UPDATE flux.mg_meter_readings SET frequency = 49")
        await db.execute("DELETE FROM flux.mg_meter_readings")
        await db.execute("UPDATE flux.mg_device_registry SET metadata = '{\"note\": 1}'")
        for site in ("HMCE", "WLCE"):
            await db.execute("INSERT INTO flux.site_stops (site, actor) VALUES (%s, 'me')", (site,))
        await db.execute("INSERT INTO flux.device_groups (name, site) VALUES ('theirs', 'HMCE'), ('ours', 'WLCE')")
        await db.execute("DELETE FROM flux.device_groups")
        await db.execute("INSERT INTO flux.sites (site) VALUES ('LAST')")  # nobody but who sees every site hears of it
        await db.execute("UPDATE flux.sites SET name = 'the end' WHERE site = 'WLCE'")
        told = {who: await until_the_end(client) for who, client in (("fenced", fenced), ("free", free))}
    of_site = {who: [(data["table"], data["type"]) for data in all_told] for who, all_told in told.items()}
    assert len(of_site["free"]) == 2 * len(of_site["fenced"]) + 1 - 1 + (
        len(of_site["free"]) - 2 * len(of_site["fenced"])
    )
    assert not [data for data in told["fenced"] if str(theirs) in str(data) or "HMCE" in str(data)]
    expected = ["INSERT", "UPDATE", "DELETE"]
    assert [op for table, op in of_site["fenced"] if table == "mg_meter_readings"] == expected
    assert [op for table, op in of_site["free"] if table == "mg_meter_readings"] == [
        op for op in expected for _ in both
    ]
    assert ("device_groups", "DELETE") in of_site["fenced"]


async def until_the_end(client: Any) -> list[dict[str, Any]]:
    told = []
    while True:
        told.append(await client.change())
        if told[-1]["table"] == "sites" and told[-1]["record"]["name"] == "the end":
            return told


async def test_a_device_that_moves_away_has_gone_for_its_old_site(db: Conn, live_server: LiveServer) -> None:
    device = await add_device(db, "M", site="WLCE")
    await add_device(db, "other", site="HMCE")
    async with phoenix(live_server, sites=["WLCE"]) as old, phoenix(live_server, sites=["HMCE"]) as new:
        for client in (old, new):
            await client.join(on("mg_device_registry"))
        await db.execute("UPDATE flux.mg_device_registry SET site = 'HMCE' WHERE id = %s", (device,))
        gone, come = await old.change(), await new.change()
    assert (gone["type"], gone["old_record"], "record" in gone) == ("DELETE", {"id": str(device)}, False)
    assert (come["type"], come["record"]["site"]) == ("UPDATE", "HMCE")


async def test_a_row_that_has_gone_since_is_told_by_its_key(db: Conn, live_server: LiveServer) -> None:
    async with phoenix(live_server, sites=["WLCE"]) as client:
        await add_device(db, "M", site="WLCE")
        await client.join(on("device_groups"))
        async with db.transaction():
            await db.execute("INSERT INTO flux.device_groups (name, site) VALUES ('g', 'WLCE')")
            await db.execute("UPDATE flux.device_groups SET name = 'h'")
            await db.execute("DELETE FROM flux.device_groups")
        told = await client.changes(3)
    assert [data["type"] for data in told] == ["INSERT", "UPDATE", "DELETE"]
    assert told[0]["record"] == told[1]["record"] == told[2]["old_record"]
    assert list(told[0]["record"]) == ["id"]


async def test_rollups_come_as_they_are_computed(db: Conn, live_server: LiveServer) -> None:
    device = await add_device(db, "M")
    table = "mg_meter_readings_5m_intermediate"
    async with phoenix(live_server) as client:
        await client.join(on(table, select=["device_id", "time_b", "samples"]))
        for minute in range(2):
            await ingest(db, [meter_reading(device, NOON + minute * MINUTE, power_total_active=5.0)])
            await refresh(db)
        told = await client.changes(2)
    assert [(data["type"], data["record"]) for data in told] == [
        (op, {"device_id": str(device), "time_b": "2026-01-15T12:00:00+00:00", "samples": samples})
        for op, samples in (("INSERT", 1), ("UPDATE", 2))
    ]


async def test_more_rows_than_are_told_one_by_one(db: Conn, live_server: LiveServer) -> None:
    device, theirs = await add_device(db, "M"), await add_device(db, "T", site="HMCE")
    await db.execute(
        "SELECT flux.ensure_partitions('flux.mg_meter_readings', %s, %s)", (NOON, NOON + 8 * 1440 * MINUTE)
    )
    async with phoenix(live_server, sites=["WLCE"]) as client:
        await client.join(on("mg_meter_readings", "INSERT"))
        await db.execute(
            """INSERT INTO flux.mg_meter_readings (device_id, time, frequency)
               SELECT d, %s + n * interval '1 minute', 50 FROM unnest(%s::uuid[]) d, generate_series(0, 6000) n""",
            (NOON, [device, theirs]),
        )
        told = await client.until("broadcast")
    assert told["event"] == "resync"
    assert told["payload"] == {
        "schema": "flux",
        "table": "mg_meter_readings",
        "type": "INSERT",
        "devices": [str(device)],
        "from": NOON.isoformat(),
        "to": (NOON + 6000 * MINUTE).isoformat(),
    }


async def test_a_cursor_goes_on_where_it_was(db: Conn, live_server: LiveServer) -> None:
    device = await add_device(db, "M")
    binding = on("mg_meter_readings")
    async with phoenix(live_server) as client:
        assert (await client.join(binding, cursor="now"))["status"] == "ok"
        await ingest(db, [meter_reading(device, NOON + minute * MINUTE, frequency=50) for minute in range(3)])
        first = await client.changes(2)
    await ingest(db, [meter_reading(device, NOON + 3 * MINUTE, frequency=50)])
    async with phoenix(live_server) as client:
        answer = await client.join(binding, cursor=first[1]["record"]["_cursor"])
        assert answer["status"] == "ok"
        told = await client.changes(2)
        checkpoint = await client.until("broadcast")
        await ingest(db, [meter_reading(device, NOON + 4 * MINUTE, frequency=50)])
        told.append(await client.change())
    times = [data["record"]["time"] for data in [*first, *told]]
    assert times == [(NOON + minute * MINUTE).isoformat() for minute in range(5)]
    assert checkpoint["event"] == "cursor"
    async with phoenix(live_server) as client:
        await client.join(binding | {"cursor": checkpoint["payload"]["cursor"]})
        assert (await client.change())["record"]["time"] == times[4]


async def test_a_cursor_that_the_log_does_not_reach(db: Conn, live_server: LiveServer) -> None:
    async with phoenix(live_server) as client:
        await client.join(on("alerts"), cursor="now")
        cursor = (await client.until("broadcast"))["payload"]["cursor"]
    await add_device(db, "M")
    await run_retention(db, as_of=datetime.now(UTC) + timedelta(days=2))
    async with phoenix(live_server) as client:
        answer = await client.join(on("alerts"), cursor=cursor)
        assert (answer["status"], answer["response"]["code"]) == ("error", "cursor_too_old")
        assert (await client.until("system"))["code"] == "cursor_too_old"
        epoch, _, snapshot = cursor.partition("/")
        for wrong, reason in (
            ("nonsense", "none that this server gave out"),
            (f"ffffffff/{snapshot}", "of another log"),
            (f"{epoch}/9000000:9000000:", "of another log"),
        ):
            assert reason in (await client.join(on("alerts"), cursor=wrong))["response"]["reason"]


async def add_key(db: Conn, name: str) -> str:
    ((key,),) = await fetch(
        db,
        "INSERT INTO flux.api_keys (name, role, created_by) VALUES (%s, 'authenticated', 'test') RETURNING id::text",
        (name,),
    )
    return str(key)


async def test_channels_end_with_their_keys(db: Conn, dsn: str) -> None:
    later = timedelta(0)
    with live_server_on(dsn, clock=lambda: datetime.now(UTC) + later) as live:
        key = live.key("authenticated", jti=await add_key(db, "to be revoked"), exp=None)
        async with phoenix(live) as short, phoenix(live, key) as revoked, phoenix(live) as renewed:
            await short.join(on("alerts"), access_token=live.key("authenticated", exp=in_minutes(2)))
            await renewed.join(on("alerts"), access_token=live.key("authenticated", exp=in_minutes(2)))
            await revoked.join(on("alerts"))
            await renewed.send("access_token", {"access_token": live.key("authenticated", exp=in_minutes(30))})
            assert (await renewed.ask("heartbeat"))["status"] == "ok"
            await db.execute("UPDATE flux.api_keys SET revoked_at = now(), revoked_by = 'me'")
            later = timedelta(minutes=3)
            assert "expired" in (await short.until("system"))["message"]
            assert await short.until("phx_close") == {}
            assert "revoked" in (await revoked.until("system"))["message"]
            assert await revoked.until("phx_close") == {}
            await db.execute(
                "INSERT INTO flux.alerts (key, severity, text, raised_at) VALUES ('k', 'info', 't', now())"
            )
            assert (await renewed.change())["record"]["key"] == "k"
            answer = await revoked.join(on("alerts"))
            assert (answer["status"], answer["response"]["reason"]) == ("error", "the key was revoked")


async def test_an_expired_key_catches_up_with_nothing(db: Conn, dsn: str) -> None:
    later = timedelta(0)
    with live_server_on(dsn, clock=lambda: datetime.now(UTC) + later) as live:
        async with phoenix(live, live.key("authenticated", exp=in_minutes(2))) as client:
            await client.join(on("alerts"), cursor="now")
            cursor = (await client.until("broadcast"))["payload"]["cursor"]
            later = timedelta(minutes=3)
            answer = await client.join(on("alerts"), cursor=cursor)
            assert (answer["status"], "expired" in answer["response"]["reason"]) == ("error", True)


async def test_values_that_python_does_not_have(db: Conn, live_server: LiveServer) -> None:
    """Neither a time without end nor JSON of any depth keeps others from being told."""
    raised = "INSERT INTO flux.alerts (key, severity, text, raised_at, cleared_at) VALUES (%s, 'info', 't', now(), %s)"
    deep = "[" * 3000 + "]" * 3000
    async with phoenix(live_server) as client:
        answer = await client.join(
            on("alerts", filter="cleared_at=gte.2026-01-01"), on("site_plans", filter=f"body=neq.{deep}"), cursor="now"
        )
        assert answer["status"] == "ok"
        for key, cleared_at in (
            ("never", "-infinity"),
            ("bc", "0044-03-15 BC"),
            ("far", "20260-01-01"),
            ("on", "infinity"),
        ):
            await db.execute(raised, (key, cleared_at))
        assert [change["record"]["key"] for change in await client.changes(2)] == ["far", "on"]


def in_minutes(minutes: int) -> int:
    return int((datetime.now(UTC) + timedelta(minutes=minutes)).timestamp())


@pytest.mark.parametrize("token", ["nonsense", 7, ""])
async def test_a_wrong_token_opens_no_channel_and_closes_one(module_server: LiveServer, token: Any) -> None:
    async with phoenix(module_server) as client:
        assert (await client.join(on("alerts"), access_token=token))["status"] == "error"
        assert (await client.join(on("alerts")))["status"] == "ok"
        await client.send("access_token", {"access_token": token})
        assert (await client.until("system"))["status"] == "error"
        assert await client.until("phx_close") == {}


async def test_another_key_moves_a_channel_to_what_it_sees(db: Conn, live_server: LiveServer) -> None:
    stop = "INSERT INTO flux.site_stops (site, actor) VALUES (%s, 'me')"
    for site in ("WLCE", "HMCE"):
        await add_device(db, f"{site}-M", site=site)
    async with phoenix(live_server, sites=["WLCE"]) as client:
        await client.join(on("site_stops"), cursor="now")
        await db.execute(stop, ("WLCE",))
        assert (await client.change())["record"]["site"] == "WLCE"
        await client.send("access_token", {"access_token": live_server.key("authenticated", ["HMCE"])})
        assert (await client.ask("heartbeat"))["status"] == "ok"
        await db.execute("UPDATE flux.site_stops SET resumed_at = now(), resumed_by = 'me'")
        await db.execute(stop, ("HMCE",))
        assert (await client.change())["record"]["site"] == "HMCE"


async def test_limits_of_a_socket(module_server: LiveServer) -> None:
    async with phoenix(module_server) as client:
        too_many = [on("alerts") for _ in range(101)]
        assert "at most 100 subscriptions" in (await client.join(*too_many))["response"]["reason"]
        answers = [await client.ask("phx_join", topic=f"realtime:{number}") for number in range(101)]
        assert {answer["status"] for answer in answers[:99]} == {"ok"}
        assert "RateLimitReached" in answers[-1]["response"]["reason"]
    async with phoenix(module_server) as client:
        full = {"config": {"postgres_changes": [on("alerts") for _ in range(100)]}}
        answers = [await client.ask("phx_join", full, topic=f"realtime:{number}") for number in range(6)]
        assert [answer["status"] for answer in answers] == ["ok"] * 5 + ["error"]
        assert (await client.ask("phx_join", full, topic="realtime:0"))["status"] == "ok", "in place of the one before"


async def test_a_key_of_anybody_follows_nothing(module_server: LiveServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with phoenix(module_server, role="anon"):
            pass
    assert refused.value.response.status_code in (401, 403)
