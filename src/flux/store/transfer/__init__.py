"""Rows to and from files: CSV (plain or gzip) and Parquet, streaming. See ``docs/import-export.md``."""

from flux.store.transfer.export import ExportReport, Source, export_readings, exported_devices
from flux.store.transfer.files import FileFormat, format_of

__all__ = ["ExportReport", "FileFormat", "Source", "export_readings", "exported_devices", "format_of"]
