"""Finding devices on a network: what speaks Modbus, and what it is. Reads only; writes nothing to anybody."""

from flux.devices.discovery.found import FoundPort, FoundUnit, RecognisedBy
from flux.devices.discovery.scan import ScanOptions, scan
from flux.devices.discovery.targets import parse_units, targets

__all__ = ["FoundPort", "FoundUnit", "RecognisedBy", "ScanOptions", "parse_units", "scan", "targets"]
