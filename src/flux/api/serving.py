"""The server around the application: uvicorn, set up in one place."""

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
    return uvicorn.Server(config)
