"""Serves the demo shop: ``python serve.py [--api http://localhost:8000] [--port 8600]``.

The client that the page uses is made at the start of the server's own OpenAPI document. The
server must let the page's address ask: ``RECKEEPER_CORS_ORIGINS=http://localhost:8600``.
"""

import argparse
import functools
import http.server
import json
import urllib.request
from pathlib import Path

import generate

FOLDER = Path(__file__).parent


class Shop(http.server.SimpleHTTPRequestHandler):
    """Answers with the files of this folder, and with the client in its place."""

    def __init__(self, *arguments: object, client: str, **more: object) -> None:
        self._client = client.encode()
        super().__init__(*arguments, directory=str(FOLDER), **more)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answer a request."""
        if self.path != "/client.js":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript")
        self.send_header("Content-Length", str(len(self._client)))
        self.end_headers()
        self.wfile.write(self._client)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--api", default="http://localhost:8000", help="where the server is")
    parser.add_argument("--port", type=int, default=8600)
    asked = parser.parse_args()
    with urllib.request.urlopen(f"{asked.api}/openapi.json", timeout=30) as answer:
        document = json.load(answer)
    client = f"{generate.client(document)}\nexport const API = {json.dumps(asked.api)};\n"
    handler = functools.partial(Shop, client=client)
    with http.server.ThreadingHTTPServer(("127.0.0.1", asked.port), handler) as server:
        print(f"The shop is at http://localhost:{asked.port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
