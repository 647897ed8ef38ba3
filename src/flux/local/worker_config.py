"""The worker's file: what it does beyond the upkeep of the store. Without a file it does nothing beyond."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from flux.config import load_yaml
from flux.market.config import MarketConfig


class WorkerConfig(BaseModel):
    """The whole of ``worker.yaml``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    market: MarketConfig = MarketConfig()
    """Market platforms that are asked, see `docs/market.md`."""


def load_worker_config(path: Path | None) -> WorkerConfig:
    """Read and check the file; None: nothing is configured. InputError names file, line, key and value."""
    return WorkerConfig() if path is None else load_yaml(path).parse(WorkerConfig)


def worker_schema() -> dict[str, Any]:
    """The JSON Schema of ``worker.yaml``, for editors."""
    schema = WorkerConfig.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Flux worker file"}
