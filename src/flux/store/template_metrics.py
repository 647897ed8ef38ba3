"""What templates say of the values that a device can report, told to the database: ranges, and how wide counters are.

A counter in a ``uint32`` register with scale 0.1 begins again at 0 when it has counted 429496729.6; the rollups count
through that. The templates that come with Flux are told by ``flux db migrate``; those in ``device_templates`` by the
next refresh after they were stored, whoever stored them.
"""

import json
from typing import Any

import structlog
from psycopg import AsyncConnection, sql

from flux.devices.codec import Scaling
from flux.devices.readings import SIGNED_WITH_DIRECTION
from flux.devices.registers import Register, RegisterType
from flux.devices.template import DeviceTemplate, builtin_templates, parse_template
from flux.errors import InputError
from flux.model import METER_METRICS, DeviceType, MetricKind

_logger = structlog.get_logger(__name__)

_BITS = {RegisterType.UINT16: 16, RegisterType.UINT32: 32}
_KIND_OF = {metric.name: metric.kind for metric in METER_METRICS}

_PUT = """
    WITH told AS (
        SELECT * FROM jsonb_to_recordset({told}) AS t(
            template text, metric text, lowest double precision, highest double precision, width double precision,
            resolution double precision, ratio text, signed boolean)
        WHERE {own} OR NOT EXISTS (SELECT FROM flux.device_templates d WHERE d.name = t.template)
    ), gone AS (
        DELETE FROM flux.template_metrics m
        WHERE m.template IN (SELECT jsonb_array_elements_text({names}))
            AND ({own} OR NOT EXISTS (SELECT FROM flux.device_templates d WHERE d.name = m.template))
            AND NOT EXISTS (SELECT FROM told t WHERE t.template = m.template AND t.metric = m.metric)
    )
    INSERT INTO flux.template_metrics AS m (template, metric, lowest, highest, width, resolution, ratio, signed)
    SELECT template, metric, lowest, highest, width, resolution, ratio, signed FROM told
    ON CONFLICT (template, metric) DO UPDATE SET
        lowest = excluded.lowest, highest = excluded.highest, width = excluded.width,
        resolution = excluded.resolution, ratio = excluded.ratio, signed = excluded.signed
        WHERE (m.lowest, m.highest, m.width, m.resolution, m.ratio, m.signed) IS DISTINCT FROM
            (excluded.lowest, excluded.highest, excluded.width, excluded.resolution, excluded.ratio, excluded.signed)
"""


def metrics_of_template(template: DeviceTemplate) -> list[dict[str, Any]]:
    """A row of ``template_metrics`` for each metric that the template reads; batteries have none."""
    if template.type is not DeviceType.METER:
        return []
    return [_row(template.name, register) for register in template.readable if register.name in _KIND_OF]


def _row(template: str, register: Register) -> dict[str, Any]:
    scaling = Scaling.of(register)
    bits = _BITS.get(register.type) if _KIND_OF[register.name] is MetricKind.COUNTER and register.scale > 0 else None
    whole = register.type is not RegisterType.FLOAT32
    return {
        "template": template,
        "metric": register.name,
        "lowest": register.min,
        "highest": register.max,
        "width": None if bits is None else scaling.apply(2.0**bits),
        "resolution": abs(scaling.apply(1.0)) if whole else None,
        "ratio": register.ratio and str(register.ratio),
        "signed": register.name in SIGNED_WITH_DIRECTION,
    }


def builtin_sql() -> str:
    """The statement that tells the database of the templates that come with Flux; one stored there goes before."""
    templates = builtin_templates().values()
    return _put([row for one in templates for row in metrics_of_template(one)], [one.name for one in templates], False)


async def follow_templates(conn: AsyncConnection[Any]) -> list[str]:
    """Tell the database of each stored template that is new or has changed; returns their names.

    One that cannot be read is told in the log, once for each version of it, and its devices' values are not checked.
    """
    cursor = await conn.execute(
        """SELECT d.name, d.hash, d.body FROM flux.device_templates d
           LEFT JOIN flux.template_metrics_source s ON s.template = d.name
           WHERE s.hash IS DISTINCT FROM d.hash ORDER BY d.name"""
    )
    changed = await cursor.fetchall()
    for name, version, body in changed:
        async with conn.transaction():
            await conn.execute(_put(_rows_of(name, body), [name], True).encode())
            await conn.execute(
                """INSERT INTO flux.template_metrics_source (template, hash) VALUES (%s, %s)
                   ON CONFLICT (template) DO UPDATE SET hash = excluded.hash""",
                (name, version),
            )
    return [name for name, _, _ in changed]


def _rows_of(name: str, body: str) -> list[dict[str, Any]]:
    try:
        template = parse_template(body, name)
    except InputError as error:
        _logger.warning("template cannot be read: values of its devices are not checked", template=name, why=str(error))
        return []
    return [row | {"template": name} for row in metrics_of_template(template)]


def _put(rows: list[dict[str, Any]], names: list[str], own: bool) -> str:
    values = {
        "told": sql.SQL("{}::jsonb").format(sql.Literal(json.dumps(rows, sort_keys=True))),
        "names": sql.SQL("{}::jsonb").format(sql.Literal(json.dumps(names))),
        "own": sql.Literal(own),
    }
    return sql.SQL(_PUT).format(**values).as_string()
