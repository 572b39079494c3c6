"""What the loopback Hub answers to commits, large files and copies between repos."""

import json

from tests.helpers.hub_store import LFS_SUFFIXES, HubError


class Cut(Exception):
    """The connection is lost here."""


class Uploads:
    """The part of the server's request handler that changes the content of repos."""

    def preupload(self, body, name, revision):
        self.must_write()
        repo = self.hub.find(name, self.role)
        files, answers = repo.files(revision), []
        for file in json.loads(body)["files"]:
            path = file["path"]
            mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
            known = {"oid": files[path].etag} if path in files else {}
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
        self.send_json({"files": answers})

    def commit(self, body, name, revision):
        self.must_write()
        if self.hub.take_fault("cut_commit"):
            raise Cut
        meanwhile, self.hub.before_commit = self.hub.before_commit, None
        if meanwhile:
            meanwhile()
        repo = self.hub.find(name, self.role)
        commit = self.hub.apply(repo, revision, [json.loads(line) for line in body.splitlines()])
        self.send_json({"commitOid": commit, "commitUrl": f"http://{self.headers['Host']}/{name}/commit/{commit}"})

    def lfs_batch(self, body, name):
        self.must_write()
        repo, url = self.hub.find(name, self.role), f"http://{self.headers['Host']}/lfs/{name}"
        answers = []
        for wanted in json.loads(body)["objects"]:
            actions = {"upload": {"href": f"{url}/{wanted['oid']}"}, "verify": {"href": f"{url}/verify"}}
            answers.append({**wanted, **({} if wanted["oid"] in repo.large else {"actions": actions})})
        headers = {"Content-Type": "application/vnd.git-lfs+json"}
        self.send_json({"transfer": "basic", "objects": answers}, headers=headers)

    def lfs_put(self, length, name, oid):
        if self.hub.take_fault("cut_upload"):
            self.rfile.read(length // 2)
            raise Cut
        self.hub.repos[name].large[oid] = self.rfile.read(length)
        self.send(200)

    def lfs_verify(self, body, name):
        self.must_write()
        wanted = json.loads(body)
        if len(self.hub.repos[name].large.get(wanted["oid"], b"")) != wanted["size"]:
            raise HubError(404, "the large file did not arrive")
        self.send_json({})

    def duplicate(self, body, name):
        self.must_write()
        source, wanted = self.hub.find(name, self.role), json.loads(body)
        self.must_pass_gate(source)
        if self.hub.faults.get("refuse_duplicate"):
            raise HubError(400, "Cannot duplicate files across storage regions")
        target = self.hub.find(wanted["target"]["name"], self.role)
        for file in wanted["files"]:
            target.large[file["sha256"]] = source.large[file["sha256"]]
        self.send_json({"success": [{"sha256": file["sha256"]} for file in wanted["files"]], "failed": []})
