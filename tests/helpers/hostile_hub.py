"""A loopback Hub that turns hostile at the requests that a test names, and another host that notes who comes."""

import contextlib
import gzip
import json
import re
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler

from tests.helpers.hub_server import Handler, Server


MOST_PAGES = 50  # what a client without a bound would see before it ends
LONGEST = 12  # seconds: no hostility lasts longer, whatever the client does
ESCAPES = "\x1b[31m\x1b]0;title\x07 \u202eevil\u202c"
HTML = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Sign in to the Wi-Fi</body></html>"


class HostileHandler(Handler):
    """The Hub's handler; requests whose method and path match `hub.hostile_at` are answered by `hub.hostility`."""

    def answer(self):
        hostility = getattr(self.hub, "hostility", None)
        asked = f"{self.command} {self.path.split('?')[0]}"
        if hostility is None or not re.search(self.hub.hostile_at, asked):
            return super().answer()
        self.hub.requests.append((self.command, self.path, 0))
        self.hub.hostile_requests += 1
        self.close_connection = True
        with contextlib.suppress(OSError):
            hostility(self)

    do_GET = do_POST = do_PUT = do_HEAD = answer

    def swallow(self):
        """Read the request's body, so that closing the connection does not reset it."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def head(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def whole(self, status, content, kind="application/json", body_was_read=False, **headers):
        if not body_was_read:
            self.swallow()
        self.head(status, Content_Type=kind, Content_Length=str(len(content)), Connection="close", **headers)
        if self.command != "HEAD":
            self.wfile.write(content)


def page(status):
    return lambda hub: hub.whole(status, HTML, "text/html; charset=utf-8")


def values(content):
    return lambda hub: hub.whole(200, content if isinstance(content, bytes) else json.dumps(content).encode())


def later(status, seconds):
    return lambda hub: hub.whole(status, b'{"error": "slow down"}', Retry_After=str(seconds))


def truncated(hub):
    hub.swallow()
    hub.head(200, Content_Type="application/json", Content_Length="5000", **resolved(hub))
    hub.wfile.write(b'{"id": "org/lean-llava", "sh')


def resolved(hub):
    """What makes a HEAD request for a file look right."""
    if "/resolve/" not in hub.path:
        return {}
    return {"X_Repo_Commit": "a" * 40, "ETag": '"' + "b" * 40 + '"', "X_Linked_Size": "5000"}


def reset(hub):
    hub.head(200, Content_Type="application/json", Content_Length="5000", **resolved(hub))
    hub.wfile.write(b'{"id": ')
    hub.wfile.flush()
    hub.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    hub.connection.close()


def garbage(hub):
    hub.swallow()
    hub.wfile.write(b"\x00\xff\x1b[31mSSH-2.0-not-http\r\n\r\n" * 20)


def silent(hub):
    hub.server.released.wait(LONGEST)


def drip(hub, first, piece):
    end = time.monotonic() + LONGEST
    hub.wfile.write(first)
    while time.monotonic() < end and not hub.server.released.wait(0.2):
        hub.wfile.write(piece)
        hub.wfile.flush()


def dripping_headers(hub):
    drip(hub, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Slow: ", b"a")


def dripping_body(hub):
    hub.swallow()
    hub.head(200, Content_Type="application/json", Content_Length=str(10**6), **resolved(hub))
    drip(hub, b"[", b" ")


def endless_body(hub):
    hub.swallow()
    hub.head(200, Content_Type="application/json", Transfer_Encoding="chunked", **resolved(hub))
    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        hub.wfile.write(b"10000\r\n" + b" " * 65536 + b"\r\n")


def bomb(hub):
    hub.whole(200, BOMB, Content_Encoding="gzip", **resolved(hub))


BOMB = gzip.compress(b" " * 60_000_000, 9)


def elsewhere(hub):
    hub.whole(302, b"", Location=hub.hub.elsewhere + hub.path)


def around(hub):
    hub.whole(302, b"", Location=hub.path)


def escapes(hub):
    """An error whose words hold terminal escapes and the token that came with the request."""
    words = f"{ESCAPES} {hub.headers.get('Authorization')}"
    body = json.dumps({"error": words}).encode()
    line = words.encode().decode("latin-1")
    headers = {"X_HF_Warning": f"topic; {line}", "X_Error_Message": line}
    hub.whole(418, body, **headers)


def conflict(status):
    return lambda hub: hub.whole(status, b'{"error": "reference already exists"}')


def other_content(change):
    """Files whose content is changed; all that is said about them stays true of the old."""

    def answer(hub):
        repo, path = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", hub.path).groups()
        hub.whole(200, change(hub.hub.repos[repo].files()[path].content), "application/octet-stream")

    return answer


def verified_elsewhere(hub):
    """Upload addresses on the Hub, and an address on another host where the upload is to be verified."""
    wanted = json.loads(hub.rfile.read(int(hub.headers["Content-Length"])))["objects"]
    name = hub.path.removeprefix("/").split(".git")[0]
    upload = f"http://{hub.headers['Host']}/lfs/{name}"
    verify = {"href": f"{hub.hub.elsewhere}/verify"}
    objects = [
        {**file, "actions": {"upload": {"href": f"{upload}/{file['oid']}"}, "verify": verify}} for file in wanted
    ]
    hub.whole(200, json.dumps({"transfer": "basic", "objects": objects}).encode(), body_was_read=True)


def ignoring(hub):
    """A Hub that tells the client to leave a file out."""
    wanted = json.loads(hub.rfile.read(int(hub.headers["Content-Length"])))["files"]
    files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": True} for file in wanted]
    hub.whole(200, json.dumps({"files": files}).encode(), body_was_read=True)


def committed(oid):
    """The answer to a commit that was not made."""

    def answer(hub):
        address = f"http://{hub.headers['Host']}/org/lean-llava/commit/{'f' * 40}"
        hub.whole(200, json.dumps({"commitOid": oid, "commitUrl": address}).encode())

    return answer


def listing(*entries):
    """A list of files with these entries in it."""
    return values([{"type": "file", "oid": "a" * 40, "size": 1, "path": "a.txt", **entry} for entry in entries])


def link_elsewhere(hub):
    """A list whose next page is on another host."""
    hub.whole(200, b"[]", Link=f'<{hub.hub.elsewhere}/next>; rel="next"')


def endless_pages(hub):
    """Pages without a file, each naming a next one under another address."""
    hub.hub.page = getattr(hub.hub, "page", 0) + 1
    address = f"http://{hub.headers['Host']}{hub.path.split('?')[0]}?cursor={hub.hub.page}"
    more = {"Link": f'<{address}>; rel="next"'} if hub.hub.page < MOST_PAGES else {}
    hub.whole(200, b"[]", **more)


def endless_files(hub):
    """Pages full of files, one after another."""
    hub.hub.page = getattr(hub.hub, "page", 0) + 1
    names = [f"{hub.hub.page}-{number}.txt" for number in range(1000)]
    entries = [{"type": "file", "oid": "a" * 40, "size": 1, "path": name} for name in names]
    address = f"http://{hub.headers['Host']}{hub.path.split('?')[0]}?cursor={hub.hub.page}"
    more = {"Link": f'<{address}>; rel="next"'} if hub.hub.page < MOST_PAGES else {}
    hub.whole(200, json.dumps(entries).encode(), **more)


class Elsewhere(BaseHTTPRequestHandler):
    """Another host: it notes the headers of whoever comes, and shows a page."""

    def log_message(self, *_):
        pass

    def answer(self):
        self.server.seen.append(dict(self.headers))
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(HTML)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(HTML)

    do_GET = do_POST = do_PUT = do_HEAD = answer


@contextlib.contextmanager
def other_host():
    """Run another host; gives its address and the headers of all requests to it."""
    server = Server(("127.0.0.1", 0), Elsewhere)
    server.seen = []
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.seen
    finally:
        server.shutdown()
        server.server_close()
