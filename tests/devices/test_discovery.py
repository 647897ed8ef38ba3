"""A scan finds every device of a mixed fleet, names none wrongly, asks only to read, and where it may."""

import asyncio
from typing import Any

import pytest
from tests.devices.fleet import NETWORK, fleet, free_port, host, readable_functions

from flux.devices.discovery import FoundUnit, RecognisedBy, ScanOptions, parse_units, scan, targets
from flux.devices.fingerprint import FingerprintCheck
from flux.devices.template import builtin_template, builtin_templates, parse_template, template_schema
from flux.errors import InputError, RefusedError

TEMPLATES = list(builtin_templates().values())


def summary(unit: FoundUnit) -> tuple[Any, ...]:
    return (unit.unit, unit.template, unit.recognised_by and str(unit.recognised_by), unit.serial_number)


async def test_a_mixed_fleet_without_a_wrong_or_missing_device() -> None:
    told: list[tuple[int, int]] = []
    async with fleet() as here:
        options = ScanOptions((here.port,), (1, 2), timeout_s=1.0)
        ports = await scan(targets([NETWORK]), options, TEMPLATES, lambda done, found: told.append((done, found)))
    by_host = {port.host: port for port in ports}
    identified, fingerprint = "identification", "fingerprint"
    assert {port.host: [summary(unit) for unit in port.units] for port in ports if port.units} == {
        host(1): [(1, "tesla_powerpack", identified, "SN-TESLA")],
        host(2): [(1, "powerpack_bess", identified, None)],
        host(3): [(1, "acuvim2_standard", identified, None), (2, "acuvim2_standard", identified, None)],
        host(4): [(1, "acuvim2_standard", fingerprint, None)],
        host(5): [(1, "powerpack_bess", fingerprint, None)],
        host(6): [(1, "tesla_powerpack", fingerprint, "SN-X")],
        host(7): [(1, "acuvim2_standard", fingerprint, None)],
        host(10): [(1, None, "sunspec", "SUN-1")],
        host(12): [(1, None, None, None), (2, None, None, None)],
    }
    assert {name: port.problem for name, port in by_host.items() if port.problem} == {
        host(8): "open, but it hangs up when it is asked",
        host(9): "open, but what it speaks is not Modbus",
        host(11): "open, but no unit that was asked answers Modbus",
        host(13): "open, but no unit that was asked answers Modbus",
    }
    sun = by_host[host(10)].units[0]
    assert (sun.manufacturer, sun.model, sun.firmware_version, sun.type, sun.also) == (
        "Acme",
        "Meter 3",
        "2.1",
        "meter",
        (2,),
    )
    tesla = by_host[host(1)].units[0]
    assert (tesla.manufacturer, tesla.model, tesla.firmware_version) == ("Tesla", "Powerpack", "1.0.0")
    assert set(here.asked) <= readable_functions(), "only what reads"
    assert told[-1] == (254, 11)


async def test_a_network_where_nobody_listens_is_done_at_once() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await scan(targets(["127.0.78.0/24"]), ScanOptions((1,)), TEMPLATES) == []
    assert loop.time() - began < 3


async def test_no_more_than_so_many_at_once() -> None:
    """Thirty hosts that say nothing, five at a time: nobody waits for more than five connections."""
    now = most = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await reader.read()
        now -= 1
        writer.close()

    hosts, port = targets(["127.0.79.0/27"]), free_port()
    server = await asyncio.start_server(serve, hosts, port)
    ports = await scan(hosts, ScanOptions((port,), timeout_s=0.2, at_once=5), TEMPLATES)
    server.close()
    assert len(ports) == len(hosts) == 30
    assert 1 < most <= 10, "a connection that was hung up may still be seen open at the other end"


class TestTargets:
    def test_networks_and_addresses(self) -> None:
        assert targets(["192.168.1.0/30", "10.0.0.7", "10.0.0.7"]) == ["192.168.1.1", "192.168.1.2", "10.0.0.7"]
        assert len(targets(["127.0.0.0/24"])) == 254

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("192.168.1.5/24", "the network is 192.168.1.0/24"),
            ("192.168.1.0/33", "write it like"),
            ("192.168.1.256", "write it like"),
            ("site-wlce", "write it like"),
            ("", "write it like"),
        ],
    )
    def test_a_typo(self, text: str, problem: str) -> None:
        with pytest.raises(InputError, match=problem):
            targets([text])

    @pytest.mark.parametrize("text", ["10.0.0.0/16", "8.8.8.8", "0.0.0.0/0", "192.0.0.0/8", "172.32.0.0/24"])
    def test_what_needs_force(self, text: str) -> None:
        with pytest.raises(RefusedError, match="--force"):
            targets([text])

    def test_forced(self) -> None:
        assert targets(["8.8.8.8"], force=True) == ["8.8.8.8"]
        assert len(targets(["10.0.0.0/16"], force=True)) == 65534

    def test_units(self) -> None:
        assert parse_units("1-3,7,2") == [1, 2, 3, 7]
        for wrong in ("", "a", "3-1", "256", "-1", "1-"):
            with pytest.raises(InputError, match="--units"):
                parse_units(wrong)


class TestFingerprints:
    @pytest.mark.parametrize("name", sorted(builtin_templates()))
    def test_every_template_has_one_that_a_device_of_zeros_does_not_fit(self, name: str) -> None:
        template = builtin_template(name)
        assert template.fingerprint
        empty = [(check, "" if check.matches else 0) for check in template.fingerprint]
        assert not all(check.fits(value) for check, value in empty)

    def test_what_fits(self) -> None:
        check = FingerprintCheck.model_validate({"register": "frequency", "min": 45, "max": 65})
        assert [check.fits(value) for value in (44.9, 45, 65, 65.1, float("nan"), None, "50")] == [
            False,
            True,
            True,
            False,
            False,
            False,
            False,
        ]

    @pytest.mark.parametrize(
        ("check", "problem"),
        [
            ("{register: soe}", "needs `min`, `max`"),
            ("{register: nothing, min: 1}", "'nothing' is none of the template's registers"),
            ("{register: soe, matches: x}", "soe is a uint16: it is told by `min` or `max`"),
            ("{register: soe, min: 2, max: 1}", "min 2 is above max 1"),
            ("{register: soe, matches: '('}", "is no regular expression"),
            ("{register: soe, minimum: 2}", "unknown key"),
        ],
    )
    def test_one_that_cannot_be_meant_is_told_with_its_line(self, check: str, problem: str) -> None:
        text = f"type: bess\nmanufacturer: X\nregisters: {{soe: 1}}\nfingerprint:\n  - {check}\n"
        with pytest.raises(InputError, match=r"template:5: fingerprint\[0\]") as raised:
            parse_template(text)
        assert problem in str(raised.value)

    def test_it_is_in_the_schema_and_does_not_change_how_a_device_is_polled(self) -> None:
        text = "type: bess\nmanufacturer: X\nregisters: {soe: 1}\n"
        with_it = parse_template(text + "fingerprint: [{register: soe, max: 100}]\n")
        assert with_it.content_hash == parse_template(text).content_hash
        assert "FingerprintCheck" in template_schema()["$defs"]


def test_recognised_by_is_in_the_order_of_trying() -> None:
    assert [str(one) for one in RecognisedBy] == ["identification", "sunspec", "fingerprint"]
