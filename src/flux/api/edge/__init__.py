"""The edge's side of the platform over HTTP, at ``/edge/v1``: `docs/api-edge.md` is its description."""

from flux.api.edge.router import edge_router

__all__ = ["edge_router"]
