"""A loopback stand-in for the W&B server: enough of it for the real client to run online against it.

It keeps what it is sent in plain dictionaries for tests to look at, and can
be told to answer every request with an error.
"""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml


class Sweep:
    """A sweep by grid: what is left of it, handed out one run a heartbeat."""

    def __init__(self, config: str) -> None:
        """Take the YAML that `wandb sweep` sent."""
        self.config = config
        content = yaml.safe_load(config)
        assert content["method"] == "grid"
        self.program = content["program"]
        names = list(content["parameters"])
        values = [content["parameters"][name]["values"] for name in names]
        self.waiting = [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*values)]
        self.given: dict[str, dict[str, Any]] = {}  # by run

    def command(self, running: bool) -> list[dict[str, Any]]:
        """What an agent shall do next."""
        if running:
            return []
        if not self.waiting:
            return [{"type": "exit"}]
        run = f"sweeprun{len(self.given)}"
        self.given[run] = self.waiting.pop(0)
        arguments = {name: {"value": value} for name, value in self.given[run].items()}
        return [{"type": "run", "run_id": run, "program": self.program, "args": arguments}]


class Server(ThreadingHTTPServer):
    """Runs, files and artifacts by name; `failing` is an HTTP status to answer everything with."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A killed client breaks its connections: that is no news."""

    def __init__(self) -> None:
        """Listen on a free port of the loopback interface."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, dict[str, Any]] = {}
        self.streams: dict[str, dict[str, dict[int, str]]] = {}  # run, file, line number
        self.uploads: dict[str, bytes] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.sweeps: dict[str, Sweep] = {}
        self.views: list[dict[str, Any]] = []
        self.alerts: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.unknown: list[str] = []  # operations this stand-in cannot answer: a test should see none
        self.failing: int | None = None
        self.lock = threading.Lock()

    def __enter__(self) -> Server:
        """Serve in the background."""
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop serving."""
        self.shutdown()
        self.server_close()

    def lines(self, run: str, name: str) -> list[dict[str, Any]]:
        """The JSON lines of a streamed file, e.g. wandb-history.jsonl."""
        stored = self.streams.get(run, {}).get(name, {})
        return [json.loads(stored[number]) for number in sorted(stored)]

    def summary(self, run: str) -> dict[str, Any]:
        """The newest summary streamed for a run."""
        lines = self.lines(run, "wandb-summary.json")
        return lines[-1] if lines else {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(chunks)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _answer(self, content: object, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _handle(self) -> None:
        body = self._body()
        with self.server.lock:
            self.server.requests.append(f"{self.command} {self.path}")
            if self.server.failing is not None:
                self._answer({"error": "told to fail"}, self.server.failing)
            elif self.command == "PUT":
                self.server.uploads[self.path] = body
                self._answer({})
            elif self.path.endswith("/graphql"):
                self._graphql(json.loads(body))
            elif stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
                self._stream(stream[1], json.loads(body or b"{}"))
            else:
                self._answer({})

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815

    def _stream(self, run: str, sent: dict[str, Any]) -> None:
        files = self.server.streams.setdefault(run, {})
        for name, chunk in (sent.get("files") or {}).items():
            for number, line in enumerate(chunk["content"], start=chunk["offset"]):
                files.setdefault(name, {})[number] = line
        if sent.get("complete"):
            self.server.runs.setdefault(run, {})["exit_code"] = sent.get("exitcode")
        self._answer({"exitcode": None, "limits": {}})

    def _graphql(self, request: dict[str, Any]) -> None:
        variables = dict(request.get("variables") or {})
        variables |= variables.pop("input", None) or {}  # some operations wrap what they send
        found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
        operation = request.get("operationName") or (found[1] if found else "")
        self.server.requests[-1] = f"graphql {operation}"
        try:
            answer = getattr(self, f"_gql_{operation}")(variables)
        except (AttributeError, KeyError) as error:
            self.server.unknown.append(f"{operation}: {error}: {sorted(variables)}: {request['query']}")
            self._answer({"data": None, "errors": [{"message": f"stand-in: no {operation}"}]})
        else:
            self._answer({"data": answer})

    # One method an operation the client sends.

    def _gql_Viewer(self, _: dict[str, Any]) -> object:  # noqa: N802
        teams = {"edges": [{"node": {"name": "me"}}]}
        who = {"id": "VXNlcjox", "entity": "me", "username": "me", "email": "", "flags": "{}"}
        return {"viewer": who | {"teams": teams}}

    def _gql_ServerFeaturesQuery(self, _: dict[str, Any]) -> object:  # noqa: N802
        return {"serverInfo": {"features": []}}

    def _gql_ServerInfo(self, _: dict[str, Any]) -> object:  # noqa: N802
        return {"serverInfo": {"cliVersionInfo": {}, "latestLocalVersionInfo": None}}

    def _gql_RunStoppedStatus(self, _: dict[str, Any]) -> object:  # noqa: N802
        return {"project": {"run": {"stopped": False}}}

    def _gql_UpsertBucket(self, sent: dict[str, Any]) -> object:  # noqa: N802
        name = sent.get("name") or "run"
        inserted = name not in self.server.runs
        run = self.server.runs.setdefault(name, {})
        run |= {key: value for key, value in sent.items() if value is not None}
        bucket = {
            "id": base64.b64encode(f"Run:v1:{name}".encode()).decode(),
            "name": name,
            "displayName": run.get("displayName") or name,
            "description": "",
            "config": run.get("config", "{}"),
            "sweepName": run.get("sweep") or "",
            "project": self._project(sent.get("project"), sent.get("entity")),
            "historyLineCount": len(self.server.lines(name, "wandb-history.jsonl")),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _gql_RunResumeStatus(self, sent: dict[str, Any]) -> object:  # noqa: N802
        name = sent["name"]
        run, bucket = self.server.runs.get(name), None
        if run is not None:
            history = self.server.lines(name, "wandb-history.jsonl")
            events = self.server.lines(name, "wandb-events.jsonl")
            bucket = {
                "id": "cnVu",
                "name": name,
                "displayName": run.get("displayName") or name,
                "summaryMetrics": json.dumps(self.server.summary(name)),
                "logLineCount": 0,
                "historyLineCount": len(history),
                "eventsLineCount": len(events),
                "historyTail": json.dumps([json.dumps(row) for row in history[-1:]]),
                "eventsTail": json.dumps([json.dumps(row) for row in events[-1:]]),
                "config": run.get("config", "{}"),
                "tags": run.get("tags") or [],
                "notes": "",
                "wandbConfig": json.dumps({"t": 1}),
            }
        project = self._project(sent.get("project"), sent.get("entity"))
        return {"model": project | {"bucket": bucket}}

    def _gql_CreateRunFiles(self, sent: dict[str, Any]) -> object:  # noqa: N802
        files = [
            {"name": name, "uploadUrl": f"{self.server.url}/upload/{sent['run']}/{name}"}
            for name in sent["files"]
        ]
        return {"createRunFiles": {"runID": "cnVu", "uploadHeaders": [], "files": files}}

    def _gql_MarkRunFilesUploaded(self, _: dict[str, Any]) -> object:  # noqa: N802
        return {"markRunFilesUploaded": {"success": True}}

    def _gql_NotifyScriptableRunAlert(self, sent: dict[str, Any]) -> object:  # noqa: N802
        self.server.alerts.append(sent)
        return {"notifyScriptableRunAlert": {"success": True}}

    def _gql_ArtifactType(self, _: dict[str, Any]) -> object:  # noqa: N802
        return {"project": {"artifact": None}}

    def _gql_CreateArtifact(self, sent: dict[str, Any]) -> object:  # noqa: N802
        self.server.artifacts.append(sent)
        number = str(len(self.server.artifacts))
        artifact = {
            "id": number,
            "state": "PENDING",
            "artifactSequence": {"id": number, "latestArtifact": None},
        }
        return {"createArtifact": {"artifact": artifact}}

    def _gql_CreateArtifactManifest(self, sent: dict[str, Any]) -> object:  # noqa: N802
        file = {
            "id": "1",
            "name": sent.get("name"),
            "displayName": sent.get("name"),
            "uploadUrl": f"{self.server.url}/upload/manifest/{sent.get('artifactID')}",
            "uploadHeaders": [],
        }
        return {"createArtifactManifest": {"artifactManifest": {"id": "1", "file": file}}}

    def _gql_UpdateArtifactManifest(self, sent: dict[str, Any]) -> object:  # noqa: N802
        answer = self._gql_CreateArtifactManifest(sent)
        assert isinstance(answer, dict)
        return {"updateArtifactManifest": answer["createArtifactManifest"]}

    def _gql_CreateArtifactFiles(self, sent: dict[str, Any]) -> object:  # noqa: N802
        edges = [
            {
                "node": {
                    "id": str(number),
                    "name": file["name"],
                    "displayName": file["name"],
                    "uploadUrl": f"{self.server.url}/upload/artifact/{file['artifactID']}/{file['name']}",
                    "uploadHeaders": [],
                    "uploadMultipartUrls": None,
                    "storagePath": file["name"],
                    "artifact": {"id": file["artifactID"]},
                }
            }
            for number, file in enumerate(sent["artifactFiles"])
        ]
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _gql_CommitArtifact(self, sent: dict[str, Any]) -> object:  # noqa: N802
        return {"commitArtifact": {"artifact": {"id": sent["artifactID"], "digest": ""}}}

    def _gql_UseArtifact(self, sent: dict[str, Any]) -> object:  # noqa: N802
        return {"useArtifact": {"artifact": {"id": sent["artifactID"]}}}

    # What `wandb sweep` and `wandb agent` ask.

    def _gql_UpsertSweep(self, sent: dict[str, Any]) -> object:  # noqa: N802
        name = f"sweep{len(self.server.sweeps)}"
        self.server.sweeps[name] = Sweep(sent["config"])
        sweep = {"name": name, "project": self._project(sent.get("projectName"), sent.get("entityName"))}
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

    def _gql_SweepWithRuns(self, sent: dict[str, Any]) -> object:  # noqa: N802
        name = sent["sweep"]
        sweep = {"id": name, "name": name, "config": self.server.sweeps[name].config, "runs": {"edges": []}}
        return {"project": {"sweep": sweep}}

    def _gql_CreateAgent(self, sent: dict[str, Any]) -> object:  # noqa: N802
        return {"createAgent": {"agent": {"id": sent["sweep"]}}}

    def _gql_Heartbeat(self, sent: dict[str, Any]) -> object:  # noqa: N802
        commands = self.server.sweeps[sent["id"]].command(bool(json.loads(sent["runState"])))
        return {"agentHeartbeat": {"agent": {"id": sent["id"]}, "commands": json.dumps(commands)}}

    # What wandb-workspaces sends.

    def _gql_UpsertView2(self, sent: dict[str, Any]) -> object:  # noqa: N802
        self.server.views.append(sent)
        view = {"id": "dmlldw==", "name": sent["name"]}
        return {"upsertView": {"view": view, "inserted": True}}

    def _gql_ProjectInternalId(self, _: dict[str, Any]) -> object:  # noqa: N802
        return {"project": {"id": "cHJv", "internalId": "UHJvamVjdEludGVybmFsSWQ6MQ=="}}

    def _gql_GetProjects(self, sent: dict[str, Any]) -> object:  # noqa: N802
        """The project `p` of whoever asks."""
        project = {"__typename": "Project", "id": "cHJv", "name": "p", "entityName": sent["entity"]}
        node = project | {"createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False, "user": None}
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": [{"node": node}]}}

    def _gql_upsertView(self, sent: dict[str, Any]) -> object:  # noqa: N802
        self.server.views.append(sent)
        project = {"id": "cHJv", "name": sent["projectName"], "entityName": sent["entityName"]}
        kept = {key: sent[key] for key in ("name", "displayName", "description", "type", "spec")}
        view = kept | {"id": "dmlldw==", "project": project, "updatedAt": "2026-01-01T00:00:00Z"}
        return {"upsertView": {"view": view, "inserted": True}}

    @staticmethod
    def _project(name: str | None, entity: str | None) -> dict[str, Any]:
        owner = {"id": "RW50", "name": entity or "me"}
        return {"id": "cHJv", "name": name or "project", "entity": owner}
