"""Servers that have no command line for this: ``python -m tests.servers.plain wsgiref 8000``."""

from __future__ import annotations

import sys
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import werkzeug.serving

from tests.servers.site import wsgi


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not what a test prints."""


class QuietWerkzeug(werkzeug.serving.WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Requests are not what a test prints."""


class Quick(WSGIServer):
    def server_bind(self) -> None:
        """Bind without asking a name server who we are."""
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.socket.bind(self.server_address)
        self.setup_environ()


def main(server: str, port: int) -> None:
    """Serve until killed."""
    if server == "wsgiref":
        running: Any = Quick(("127.0.0.1", port), Quiet)
        running.set_app(wsgi)
    else:
        application: Any = wsgi
        running = werkzeug.serving.make_server("127.0.0.1", port, application, request_handler=QuietWerkzeug)
    running.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
