"""A page that shows a live reconstruction in a browser; it is read only and bound to this machine."""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ['LivePage']

logger = logging.getLogger(__name__)

SOCKET_S = 10.0
"""Seconds after which a browser that says nothing more is left alone."""

LAST_S = 2.0
"""Seconds that somebody who looks at the page has for the last picture."""

HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>PINN-Torch live</title>
<link rel="icon" href="data:,">
<style>
body { font: 15px system-ui, sans-serif; margin: 1.5em; background: #fafafa; color: #222 }
#line { margin: 0.6em 0; font-variant-numeric: tabular-nums }
#trouble { color: #b22222 }
img { max-width: 100%; border: 1px solid #ddd; background: white }
</style></head><body>
<h1>Live reconstruction</h1>
<div id="line">waiting for frames</div><div id="trouble"></div>
<img id="image" alt="no image yet">
<script>
let shown = -1;
async function update() {
  try {
    const status = await (await fetch('status.json', {cache: 'no-store'})).json();
    document.getElementById('line').textContent = status.sentence;
    document.getElementById('trouble').textContent = status.trouble;
    if (status.picture !== shown && status.picture > 0) {
      shown = status.picture;
      document.getElementById('image').src = 'image.png?' + shown;
    }
  } catch (error) {
    document.getElementById('trouble').textContent = 'the reconstruction has ended, or cannot be reached';
  }
  setTimeout(update, 500);
}
update();
</script></body></html>
"""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of browsers that leave; other errors are told."""
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):
            logger.warning('the live page could not answer: %s', error)


class LivePage:
    """Serves a page with the status and the picture of a live reconstruction.

    Args:
        port: Of 127.0.0.1; 0 takes a free one.
        status: Returns what `status.json` says, with `sentence`, `trouble` and `picture`, its number.

    Attributes:
        sentence: What is shown instead of that of the status, or nothing.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, port: int, status: Callable[[], dict[str, Any]]) -> None:
        self.picture, self.number, self.sentence = b'', 0, ''
        self._asked_s, self._seen = -math.inf, 0
        page = self

        class Handler(BaseHTTPRequestHandler):
            timeout = SOCKET_S

            def do_GET(self) -> None:
                name, page._asked_s = self.path.partition('?')[0], time.monotonic()
                # another name that leads to this machine is that of a page of somebody else
                if self.headers.get('Host') not in page._hosts:
                    self.send_error(403)
                elif name == '/':
                    self._answer('text/html; charset=utf-8', HTML.encode())
                elif name == '/status.json':
                    self._answer('application/json', json.dumps(status()).encode())
                elif name == '/image.png' and page.picture:
                    number = page.number
                    self._answer('image/png', page.picture)
                    page._seen = number
                else:
                    self.send_error(404)

            def do_HEAD(self) -> None:
                self.do_GET()

            def _answer(self, kind: str, body: bytes) -> None:
                self.send_response(200)
                self.send_header('Content-Type', kind)
                self.send_header('Content-Length', str(len(body)))
                self.send_header('Cache-Control', 'no-store')
                self.end_headers()
                if self.command != 'HEAD':
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing: the console shows the status."""

        self._server = _Server(('127.0.0.1', port), Handler)
        port = self._server.server_address[1]
        self._hosts = {f'127.0.0.1:{port}', f'localhost:{port}'}
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """What a browser is pointed to."""
        return f'http://127.0.0.1:{self._server.server_address[1]}/'

    def show(self, picture: bytes) -> None:
        """Takes the next picture, a PNG."""
        self.picture, self.number = picture, self.number + 1

    def end(self, sentence: str, picture: bytes) -> None:
        """Shows a last sentence and a last picture (PNG), and waits until who looks at it has them."""
        self.sentence = sentence
        self.show(picture)
        deadline = time.monotonic() + LAST_S
        while self._seen < self.number and time.monotonic() < deadline:
            if self._asked_s < time.monotonic() - LAST_S:
                return  # nobody looks
            time.sleep(0.05)

    def close(self) -> None:
        """Ends the page."""
        self._server.shutdown()
        self._server.server_close()
