"""A web server on this machine, whose behaviour a test sets."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Serves ``content`` at any path.

    ``ranges``: whether ranges are honoured. ``cut``: after how many bytes of an answer the connection breaks.
    ``code``: what is answered. ``asked``: the Range of each request. ``announces``: whether it says how long it is.
    ``pause``: after how many bytes it falls silent.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.asked = content, []  # type: ignore[var-annotated]
        self.ranges, self.announces, self.code = True, True, 200
        self.cut: int | None = None
        self.pause: int | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/weights.pt"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if self.server.code != 200:
            return self.send_error(self.server.code)
        whole = self.server.content
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.server.ranges else 0  # type: ignore[index]
        if start and start >= len(whole):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        if self.server.announces:
            self.send_header("Content-Length", str(len(whole) - start))
        self.end_headers()
        if self.server.pause is not None:
            self.wfile.write(whole[start : start + self.server.pause])
            while self.server.pause is not None:
                time.sleep(0.02)
            return None
        cut = self.server.cut
        self.wfile.write(whole[start:] if cut is None else whole[start : start + cut])
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        return


@contextmanager
def serving(content: bytes) -> Iterator[Server]:
    with Server(content) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
