"""Figures for Prometheus, read from the database at each scrape, so that they hold whichever process is asked."""

from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from psycopg import AsyncConnection

from flux.store import queries
from flux.store.decisions import newest_decisions


async def metrics_text(conn: AsyncConnection[Any]) -> str:
    """The text format of Prometheus."""
    registry = CollectorRegistry()
    devices = Gauge("flux_devices", "Devices in the registry", ["site", "type", "state"], registry=registry)
    for site, type_, state, count in await _device_counts(conn):
        devices.labels(site, type_, state).set(count)
    age = Gauge("flux_reading_age_seconds", "Age of a device's newest reading", ["site", "device"], registry=registry)
    for row in await queries.latest_readings(conn):
        if row["age_s"] is not None:
            age.labels(row["site"], row["device"]).set(row["age_s"])
    pending = Gauge("flux_rejected_readings", "Rejected readings that wait for a person", registry=registry)
    cursor = await conn.execute("SELECT count(*) FROM flux.rejected_readings WHERE status = 'pending'")
    pending.set((await cursor.fetchone() or (0,))[0])
    lag = Gauge("flux_rollup_lag_seconds", "Age of the oldest change that no rollup has yet", registry=registry)
    lag.set(await queries.rollup_lag_s(conn))
    since = Gauge("flux_job_age_seconds", "Since a worker's job last succeeded", ["job"], registry=registry)
    failing = Gauge("flux_job_failing", "1 where a worker's job failed at its last turn", ["job"], registry=registry)
    for row in await queries.worker_jobs(conn):
        failing.labels(row["name"]).set(row["failure"] is not None)
        if row["age_s"] is not None:
            since.labels(row["name"]).set(row["age_s"])
    await _control(conn, registry)
    return generate_latest(registry).decode()


async def _control(conn: AsyncConnection[Any], registry: CollectorRegistry) -> None:
    """From the newest decision of each site in the ledger; a site that decides nothing is not there."""
    of = ["site", "device"]
    writes = Gauge("flux_register_writes_today", "Registers written, by the UTC day", of, registry=registry)
    faults = Gauge("flux_control_fault", "1 while a fault of control lasts", [*of, "kind"], registry=registry)
    for row in await newest_decisions(conn):
        for command in row["commands"]:
            writes.labels(row["site"], command["battery"]).set(command["register_writes_today"])
        for fault in row["fault_details"]:
            faults.labels(row["site"], fault["device"], fault["kind"]).set(1)


async def _device_counts(conn: AsyncConnection[Any]) -> list[tuple[str, str, str, int]]:
    cursor = await conn.execute(
        "SELECT site, type, state, count(*) FROM flux.mg_device_registry GROUP BY site, type, state"
    )
    return await cursor.fetchall()
