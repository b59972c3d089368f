"""
A server of your own, on doorkey's core alone: no framework, no adapter.

    doorkey init && doorkey workspace provision Acme     # tells the ids of its two test keys
    python examples/http_server.py
    KEY=$(doorkey keys reveal --stdout KEY_ID)           # in another terminal
    curl -u "$KEY:" http://127.0.0.1:8000/
"""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import doorkey
from doorkey.core.refusals import Refusals, sent_by_script

door = doorkey.open(os.environ.get("DOORKEY_STORE", "sqlite:///doorkey.db"))
refusals = Refusals(door.profile)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        lines = self.headers.get_all("Authorization")
        match door.verifier.verify(lines, client_address=self.client_address[0], requires="messages:read"):
            case doorkey.Granted(principal):
                self.answer(200, [("Content-Type", "text/plain")], f"Hello, {principal.workspace}!\n".encode())
            case refused:
                script = sent_by_script(self.headers["Origin"], self.headers["Sec-Fetch-Mode"])
                refusal = refusals.refusal(refused, script=script)
                self.answer(refusal.status, refusal.headers, refusal.body)

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8000"))), Handler).serve_forever()
