"""An outcome by settlement period: columns for people's own tools, as CSV or Parquet."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flux.analysis.flows import Flow, Series
from flux.analysis.outcome import Outcome
from flux.errors import InputError
from flux.model import SETTLEMENT_PERIOD, settlement_period

Columns = Mapping[str, Sequence[Any] | Series]
_DIGITS = 6


def half_hour_columns(outcome: Outcome) -> dict[str, Sequence[Any] | Series]:
    """A row for each half hour: when, energies (kWh), SoE at its end, price, the mode that held longest, costs (£).

    ``settlement_date`` and ``settlement_period`` are GB's, ``local_time`` is the plan's.
    """
    timeline, each = outcome.timeline, SETTLEMENT_PERIOD // outcome.timeline.step
    starts = [timeline.start + number * SETTLEMENT_PERIOD for number in range(timeline.count // each)]
    periods = [settlement_period(start) for start in starts]
    sums = {"load_kwh": outcome.load_kwh, "solar_kwh": outcome.solar_kwh}
    sums |= {"import_kwh": outcome.import_kwh, "export_kwh": outcome.export_kwh}
    sums |= {"charge_kwh": outcome.charge_kwh, "discharge_kwh": outcome.discharge_kwh}
    sums |= {f"{flow.value}_kwh": outcome.flows[flow] for flow in Flow}
    columns: dict[str, Sequence[Any] | Series] = {
        "time": [start.isoformat().replace("+00:00", "Z") for start in starts],
        "local_time": [start.astimezone(outcome.zone).isoformat() for start in starts],
        "settlement_date": [period.day.isoformat() for period in periods],
        "settlement_period": [period.number for period in periods],
        **{name: outcome.half_hours(values) for name, values in sums.items()},
        "soe_kwh": outcome.soe_kwh[each - 1 :: each],
        "peak_import_kw": outcome.highest_import_kw.reshape(-1, each).max(axis=1),
        "mode": longest_modes(outcome, each),
        "price_gbp_mwh": outcome.prices[::each],
    }
    if outcome.money is not None:
        costs = {f"{flow.value}_gbp": values for flow, values in outcome.money.flows.items()}
        costs["cost_gbp"] = np.sum(list(outcome.money.flows.values()), axis=0)
        costs["cost_without_battery_gbp"] = np.sum(list(outcome.money.without.values()), axis=0)
        columns |= {name: outcome.half_hours(values) for name, values in costs.items()}
    return columns


def longest_modes(outcome: Outcome, each: int) -> list[str]:
    """The mode that held longest in each half hour of ``each`` steps; ``idle``: none did."""
    codes = np.frombuffer(outcome.course.mode, dtype=np.intc).reshape(-1, each)
    counts = np.stack([(codes == code).sum(axis=1) for code in range(len(outcome.course.modes))])
    return [outcome.course.modes[code] or "idle" for code in counts.argmax(axis=0)]


def write_half_hours(path: Path, columns: Columns) -> None:
    """Write ``columns`` by the file's ending: .csv or .parquet. A missing value is an empty cell, or a null."""
    try:
        if path.suffix == ".parquet":
            _write_parquet(path, columns)
        elif path.suffix == ".csv":
            _write_csv(path, columns)
        else:
            raise InputError(f"{path}: ends neither with .csv nor with .parquet")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


def _write_csv(path: Path, columns: Columns) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*map(_cells, columns.values()), strict=True))


def _cells(values: Sequence[Any] | Series) -> Sequence[Any]:
    """Energies to the millionth of a kWh: enough for any sum, and free of what rounding leaves."""
    if not isinstance(values, np.ndarray):
        return values
    return ["" if np.isnan(value) else round(value, _DIGITS) + 0.0 for value in values.tolist()]


def _write_parquet(path: Path, columns: Columns) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})
    for name in ("time",):
        as_time = pc.strptime(table[name], format="%Y-%m-%dT%H:%M:%SZ", unit="us").cast(pa.timestamp("us", tz="UTC"))
        table = table.set_column(table.schema.get_field_index(name), name, as_time)
    pq.write_table(table, path)
