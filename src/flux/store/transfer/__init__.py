"""Rows to and from files: CSV (plain or gzip) and Parquet, streaming. See ``docs/import-export.md``."""

from flux.store.transfer.export import ExportReport, Source, export_readings, exported_devices, stream_readings
from flux.store.transfer.files import FileFormat, format_of
from flux.store.transfer.importing import ImportReport, RejectedRow, import_readings
from flux.store.transfer.market import export_market, import_market, stream_market
from flux.store.transfer.rejects import rejects_file
from flux.store.transfer.rows import RowSource, open_rows

__all__ = [
    "ExportReport",
    "FileFormat",
    "ImportReport",
    "RejectedRow",
    "RowSource",
    "Source",
    "export_market",
    "export_readings",
    "exported_devices",
    "format_of",
    "import_market",
    "import_readings",
    "open_rows",
    "rejects_file",
    "stream_market",
    "stream_readings",
]
