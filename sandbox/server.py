"""A WSGI application on 127.0.0.1, in a thread of its own: what AWS, the gateway and the control port are."""

import logging
import socket
import threading
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server


class Server:
    """A server that starts and stops, on a port that is known once it is made. Port 0 means any free one."""

    def __init__(self, application: Any, port: int) -> None:
        """Raises OSError when the port is in use, where werkzeug by itself would end the process."""
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        with socket.create_server(("127.0.0.1", port), backlog=256) as listener:
            self.port: int = listener.getsockname()[1]
            self._server = make_server(
                "127.0.0.1",
                self.port,
                application,
                threaded=True,
                request_handler=_QuietHandler,
                fd=listener.fileno(),
            )
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def start(self) -> None:
        """Serve."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _QuietHandler(WSGIRequestHandler):
    def log_request(self, *args: Any) -> None:
        """Nothing."""
