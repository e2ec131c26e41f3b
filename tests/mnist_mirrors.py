"""mnist_mirrors.py FOLDER LOG: a web server on 127.0.0.1 that imitates good and bad MNIST mirrors.

Prints its port, then serves FOLDER's files under these paths, and writes "PATH RANGE" to LOG for
every request (RANGE is "-" without one):
  /good/     as they are, whole or from an offset
  /norange/  as they are, always whole
  /cut/      from an offset, but never more than 40 % of a file at a time, then the connection drops
  /slow/     like good, 8 MB/s
  /corrupt/  one byte changed
  /page/     a web page in place of every file
  all else is not found
"""
import http.server
import os
import sys
import time

FOLDER, LOG = sys.argv[1:]


class Mirror(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def do_GET(self):
        kind, _, name = self.path.lstrip("/").partition("/")
        asked = self.headers.get("Range", "-")
        with open(LOG, "a", encoding="utf-8") as log:
            log.write(f"{self.path} {asked}\n")
        path = os.path.join(FOLDER, os.path.basename(name))
        kinds = ("good", "norange", "cut", "slow", "corrupt", "page")
        if kind not in kinds or not os.path.isfile(path):
            self.send_error(404)
            return
        with open(path, "rb") as file:
            data = file.read()
        if kind == "corrupt":
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        if kind == "page":
            data = b"<html>Please log in</html>"
        first = 0
        if asked != "-" and kind not in ("norange", "page"):
            first = int(asked.removeprefix("bytes=").rstrip("-"))
            if first >= len(data):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        body = data[first:]
        if kind == "cut":
            body = body[: len(data) * 2 // 5]
        try:
            for start in range(0, len(body), 100_000):
                self.wfile.write(body[start : start + 100_000])
                if kind == "slow":
                    time.sleep(0.0125)
        except ConnectionError:
            pass  # the client went away, as it may

    def log_message(self, *arguments):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
print(server.server_port, flush=True)
server.serve_forever()
