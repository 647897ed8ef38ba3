"""A colour for each mode, the same in every picture."""

MODE_COLOURS = {
    "axle": "#8250df",
    "charge_to_soe": "#54aeff",
    "discharge_to_soe": "#d4a72c",
    "dynamic_peak_approach": "#4ac26b",
    "dynamic_peak_discharge": "#ff8182",
    "export_avoidance": "#f2cc60",
    "fixed": "#8c959f",
    "import_avoidance": "#76e3ea",
    "import_avoidance_when_short": "#ffb77c",
    "niv_chase": "#c297ff",
    "set_point": "#57606a",
}
OTHER_COLOUR = "#b6e3ff"
INK = "#24292f"
GRID = "#d0d7de"
