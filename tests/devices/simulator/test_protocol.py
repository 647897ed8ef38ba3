"""Whatever comes in, something well-formed goes out, and nothing that was refused is changed."""

import struct
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from flux.devices.simulator import SimulatedSite, demo_site, load_sim_config
from flux.devices.simulator.protocol import answer

START = datetime(2026, 1, 15, 12, tzinfo=UTC)
DOCS = Path(__file__).parents[3] / "docs" / "simulator.md"
SITE = SimulatedSite(demo_site(port=0), START)

addresses = st.one_of(st.integers(0, 65535), st.integers(95, 225), st.integers(995, 1030))
well_formed = st.builds(
    lambda function, address, count, data: struct.pack(">BHH", function, address, count) + data,
    st.sampled_from([3, 4, 6, 16, 43]),
    addresses,
    st.one_of(st.integers(0, 65535), st.integers(0, 130)),
    st.binary(max_size=250),
)
exact_writes = st.builds(
    lambda address, words: struct.pack(f">BHHB{len(words)}H", 16, address, len(words), 2 * len(words), *words),
    addresses,
    st.lists(st.integers(0, 65535), max_size=8),
)


@settings(deadline=None)  # a busy machine is no fault
@given(st.one_of(st.binary(min_size=1, max_size=253), well_formed, exact_writes))
def test_any_message_gets_a_well_formed_answer(message: bytes) -> None:
    device = SITE.device("WLCE-BESS-01")
    before = SITE.state()
    result = answer(device, message)
    if result.exception is not None:
        assert result.message == bytes((message[0] | 0x80, result.exception))
        assert SITE.state() == before
    else:
        assert result.message[0] == message[0]
        assert len(result.message) <= 253
        assert result.function == message[0]
    if message[0] == 3 and result.exception is None:
        assert result.message[1] == 2 * result.count == len(result.message) - 2


def test_the_site_file_in_the_docs_is_one(tmp_path: Path) -> None:
    block = DOCS.read_text().split("```yaml\n")[1].split("```")[0]
    (tmp_path / "sim.yaml").write_text(block)
    (tmp_path / "my_battery.yaml").write_text("type: bess\nmanufacturer: Acme\nregisters: {soe: 1, target_power: 2}\n")
    site = SimulatedSite(load_sim_config(tmp_path / "sim.yaml"), START)
    assert [device.name for device in site.devices] == ["HMCE-BESS-01", "HMCE-GRID-METER", "HMCE-BESS-METER"]
    assert site.battery("HMCE-BESS-01").spec.charge_efficiency == 0.85
