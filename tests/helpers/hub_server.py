"""A Hub on the loopback interface, for the real huggingface_hub and transformers to talk to."""

import contextlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from tests.helpers.hub_store import HubError, HubStore, Repo
from tests.helpers.hub_uploads import Cut, Uploads


MODEL = r"(?P<name>[\w.-]+/[\w.-]+)"
REVISION = r"(?P<revision>[^/]+)"
ROUTES = [
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("GET", rf"/api/models/{MODEL}(/revision/{REVISION})?", "model_info"),
    ("GET", rf"/api/models/{MODEL}/refs", "refs"),
    ("GET", rf"/api/models/{MODEL}/tree/{REVISION}(/(?P<path>.+))?", "tree"),
    ("POST", rf"/api/models/{MODEL}/paths-info/{REVISION}", "paths_info"),
    ("POST", rf"/api/models/{MODEL}/preupload/{REVISION}", "preupload"),
    ("POST", rf"/api/models/{MODEL}/commit/{REVISION}", "commit"),
    ("POST", rf"/api/models/{MODEL}/lfs-files/duplicate", "duplicate"),
    ("POST", rf"/api/models/{MODEL}/tag/{REVISION}", "tag"),
    ("POST", rf"/api/models/{MODEL}/branch/{REVISION}", "branch"),
    ("PUT", rf"/api/models/{MODEL}/settings", "settings"),
    ("POST", rf"/{MODEL}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", rf"/lfs/{MODEL}/(?P<oid>[0-9a-f]+)", "lfs_put"),
    ("POST", rf"/lfs/{MODEL}/verify", "lfs_verify"),
    ("HEAD", rf"/{MODEL}/resolve/{REVISION}/(?P<path>.+)", "resolve"),
    ("GET", rf"/{MODEL}/resolve/{REVISION}/(?P<path>.+)", "resolve"),
]


class Handler(Uploads, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's system

    @property
    def hub(self) -> HubStore:
        return self.server.hub

    def log_message(self, *_):
        pass

    def answer(self):
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        self.hub.requests.append((self.command, unquote(parts.path), length))
        try:
            for method, pattern, action in ROUTES:
                match = re.fullmatch(pattern, parts.path)
                if method == self.command and match:
                    fields = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                    if action == "lfs_put":
                        return self.lfs_put(length, **fields)
                    body = self.rfile.read(length)
                    with self.hub.lock:
                        return getattr(self, action)(body, **fields)
            self.rfile.read(length)
            raise HubError(404, f"no such endpoint: {self.command} {parts.path}")
        except HubError as error:
            self.send_error_answer(error)
        except Cut:
            self.close_connection = True
            self.connection.close()

    do_GET = do_POST = do_PUT = do_HEAD = answer

    # Who asks

    @property
    def role(self):
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not token:
            return None
        if token not in self.hub.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[token]

    def must_write(self):
        if self.role != "write":
            raise HubError(403 if self.role else 401, "You don't have the rights to write here")

    def must_pass_gate(self, repo):
        if repo.gated:
            raise HubError(403, f"Access to model {repo.name} is restricted", "GatedRepo")

    # Answers

    def send(self, status, content=b"", headers=()):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_json(self, content, status=200, headers=()):
        self.send(status, json.dumps(content).encode(), {"Content-Type": "application/json", **dict(headers)})

    def send_error_answer(self, error):
        message = f"{error.message} {dict(self.headers)}" if self.hub.faults.get("echo") else error.message
        headers = {"X-Error-Message": message, **({"X-Error-Code": error.code} if error.code else {})}
        self.send_json({"error": message}, error.status, headers)

    # Repos

    def create(self, body):
        self.must_write()
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        url = f"http://{self.headers['Host']}/{name}"
        if name in self.hub.repos:
            return self.send_json({"error": "You already created this model repo", "url": url}, 409)
        private = wanted.get("visibility") == "private" or wanted.get("private", False)
        self.hub.repos[name] = Repo(name, private=private)
        self.send_json({"url": url})

    def validate_yaml(self, body):
        has_metadata = json.loads(body)["content"].startswith("---\n")
        self.send_json({"errors": [], "warnings": [] if has_metadata else [{"message": "empty metadata"}]})

    def settings(self, body, name):
        self.must_write()
        wanted = json.loads(body)
        visibility = {"public": False, "private": True}.get(wanted.get("visibility"))
        self.hub.find(name, self.role).private = wanted["private"] if visibility is None else visibility
        self.send_json({})

    def model_info(self, _, name, revision="main"):
        repo = self.hub.find(name, self.role)
        commit = repo.resolve(revision)
        siblings = [{"rfilename": path} for path in repo.commits[commit]]
        gated = "auto" if repo.gated else False
        answer = {"id": repo.name, "sha": commit, "private": repo.private, "gated": gated, "tags": []}
        self.send_json({**answer, "siblings": siblings})

    def refs(self, _, name):
        repo = self.hub.find(name, self.role)
        named = {
            kind: [{"name": ref, "ref": f"refs/{folder}/{ref}", "targetCommit": commit} for ref, commit in refs.items()]
            for kind, folder, refs in (("branches", "heads", repo.branches), ("tags", "tags", repo.tags))
        }
        self.send_json({**named, "converts": []})

    def tree(self, _, name, revision, path=""):
        files = self.hub.find(name, self.role).files(revision)
        below = {file: blob for file, blob in files.items() if not path or file.startswith(f"{path}/")}
        if path and not below:
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        self.send_json([blob.described(file) for file, blob in sorted(below.items())])

    def paths_info(self, body, name, revision):
        files = self.hub.find(name, self.role).files(revision)
        is_json = "json" in (self.headers.get("Content-Type") or "")
        paths = json.loads(body)["paths"] if is_json else parse_qs(body.decode())["paths"]
        self.send_json([files[path].described(path) for path in paths if path in files])

    def tag(self, body, name, revision):
        self.must_write()
        repo, tag = self.hub.find(name, self.role), json.loads(body)["tag"]
        if tag in repo.tags:
            raise HubError(409, f"Tag reference exists already: {tag}")
        repo.tags[tag] = repo.resolve(revision)
        self.send_json({})

    def branch(self, body, name, revision):
        self.must_write()
        repo = self.hub.find(name, self.role)
        repo.branches[revision] = repo.resolve(json.loads(body or b"{}").get("startingPoint", "main"))
        self.send_json({})

    # Downloads

    def resolve(self, _, name, revision, path):
        repo = self.hub.find(name, self.role)
        commit = repo.resolve(revision)
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        self.must_pass_gate(repo)
        blob = repo.commits[commit].get(path)
        if blob is None:
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self.send_json({"error": "Entry not found"}, 404, headers)
        headers |= {
            "ETag": f'"{blob.etag}"',
            "X-Linked-Etag": f'"{blob.etag}"',
            "X-Linked-Size": str(len(blob.content)),
        }
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if span is None:
            return self.send(200, blob.content, headers)
        part = blob.content[int(span[1]) : int(span[2]) + 1 if span[2] else None]
        headers["Content-Range"] = f"bytes {span[1]}-{int(span[1]) + len(part) - 1}/{len(blob.content)}"
        self.send(206, part, headers)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A client that is gone is no news."""


@contextlib.contextmanager
def loopback_hub(tokens, handler=Handler):
    """Run a Hub in this process; gives its address and its `HubStore`."""
    server = Server(("127.0.0.1", 0), handler)
    server.hub = HubStore(tokens)
    server.released = threading.Event()  # set when it is over: whoever keeps a client waiting stops then
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.hub
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
