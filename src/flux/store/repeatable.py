"""SQL that is applied anew whenever it has changed: functions, triggers, views, the tables of the rollups."""

import hashlib
import json
from pathlib import Path
from typing import Any

from psycopg import sql

from flux.model import BessMetadata, DeviceType, MeterMetadata
from flux.store import api_schema, changes, rollups, template_metrics
from flux.store.migrate import known_versions

_SQL = Path(__file__).parent / "sql"
API = "api"
"""The script that needs the roles of the HTTP API: not everybody may make them."""


def repeatable_sql() -> dict[str, str]:
    """Each script by its name, in the order in which they are applied."""
    scripts = {
        "rollups": rollups.render_sql(),
        "template_metrics": template_metrics.builtin_sql(),
        "market": (_SQL / "market.sql").read_text(encoding="utf-8"),
        "registry": _registry(),
        "changes": changes.render_sql(),
        "fence": api_schema.fence_sql(),
    }
    beneath = hashlib.sha256("".join((*scripts.values(), *known_versions())).encode()).hexdigest()
    return scripts | {API: api_schema.api_sql(beneath)}


def _registry() -> str:
    """What devices may hold and become; the rules for metadata are those of the model."""
    rules = {
        DeviceType.BESS: _properties(BessMetadata.model_json_schema()),
        DeviceType.METER: _properties(MeterMetadata.model_json_schema()),
    }
    literal = sql.Literal(json.dumps(rules, sort_keys=True)).as_string()
    files = sorted((_SQL / "registry").glob("*.sql"))
    return "\n".join(file.read_text(encoding="utf-8") for file in files).replace("%schema%", literal)


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON Schema's properties with the definitions that they refer to in their places."""
    definitions = schema.get("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, list):
            return [resolved(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return resolved(definitions[part["$ref"].rpartition("/")[2]])
        return {key: resolved(value) for key, value in part.items() if key not in {"title", "description", "default"}}

    return {name: resolved(rule) for name, rule in schema["properties"].items()}
