"""The server around the application: uvicorn, set up in one place."""

import socket

import uvicorn
from fastapi import FastAPI

_STOP_WITHIN_S = 10
"""How long requests and sockets that are open get to end when the server stops."""


def make_server(app: FastAPI, *, host: str = "127.0.0.1", port: int = 0) -> uvicorn.Server:
    """A server that is not listening yet; ``server.run()`` does until it is told to stop."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        ws="websockets-sansio",
        log_level="warning",
        access_log=False,  # it would repeat URLs
        server_header=False,
        timeout_graceful_shutdown=_STOP_WITHIN_S,
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """Ends requests that only wait (`app.state.end_waiting`, where a room sets it) before it waits for the others."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called once it is told to stop, before it waits for what is open."""
        end_waiting = getattr(self.config.app.state, "end_waiting", None)  # type: ignore[union-attr]
        if end_waiting is not None:
            end_waiting()
        await super().shutdown(sockets)
