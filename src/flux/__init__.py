"""Flux runs battery storage fleets: polls, controls, keeps every reading, rolls it up."""

__version__ = "0.1.0"
