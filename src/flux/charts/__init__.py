"""Pictures as SVG, in one style, without any library: lines over time, and clouds of points. Pure."""

from flux.charts.scatter import Cloud, draw_clouds
from flux.charts.series import Line, Panel, draw_series

__all__ = ["Cloud", "Line", "Panel", "draw_clouds", "draw_series"]
