"""Typed endpoints, ``/v1/…``: what is not a table. Each is an :class:`~flux.api.typed.operation.Operation`."""
