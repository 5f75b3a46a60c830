"""An endpoint by Python's http.server: `endpoint.py PORT IDLE [CERT KEY]`. It closes connections that are
idle for so many seconds, writes head and body one after the other, and leaves Nagle's algorithm on."""

import json
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = float(sys.argv[2])

    def log_message(self, *args):
        pass

    def body(self):
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return len(self.rfile.read(int(self.headers.get("content-length", 0))))
        total = 0
        while size := int(self.rfile.readline().split(b";")[0], 16):
            total += len(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return total

    def say(self, status, body, kind="text/plain"):
        self.send_response(status)
        self.send_header("x-origin", "python")
        if status != 304 and status != 204:
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status not in (204, 304):
            self.wfile.write(body)

    def answer(self):
        url = urlsplit(self.path)
        wanted = {name: int(values[0]) for name, values in parse_qs(url.query).items() if values[0].isdigit()}
        length = self.body()
        if url.path == "/echo":
            seen = {
                "origin": "python",
                "method": self.command,
                "target": self.path,
                "version": self.request_version.removeprefix("HTTP/"),
                "headers": {name.lower(): value for name, value in self.headers.items()},
                "body_bytes": length,
            }
            self.say(200, json.dumps(seen).encode(), "application/json")
        elif url.path == "/bytes":
            count = wanted["count"]
            self.say(200, (bytes(range(251)) * (count // 251 + 1))[:count])
        elif url.path == "/events":
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for number in range(wanted["count"]):
                event = b"data: %d\n\n" % number
                self.wfile.write(b"%x\r\n" % len(event))
                self.wfile.write(event)
                self.wfile.write(b"\r\n")
                time.sleep(wanted["ms"] / 1000)
            self.wfile.write(b"0\r\n\r\n")
        elif url.path == "/status":
            self.say(wanted["code"], b"")
        else:
            self.say(200, b"python")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
if len(sys.argv) > 3:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3], sys.argv[4])
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
