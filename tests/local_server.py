"""An HTTP server on 127.0.0.1 for tests: it listens from the start, answers inside `with`, and is gone after it."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class LocalServer:
    """handler: what answers. port: a free one."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        handler.disable_nagle_algorithm = True  # else a body waits 40 ms for the client to acknowledge its headers
        self.port = self.server.server_address[1]
        self.root = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
