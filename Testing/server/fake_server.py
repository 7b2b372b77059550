"""A server for the tests of the page: the routes of the real one, known answers, and jobs that wait for the test."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
import time
import zipfile
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from MedicalSAM3Lib import volume_preview
from MedicalSAM3Lib.concepts import load_concepts
from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.files import list_series, read_volume, write_segmentation
from MedicalSAM3Lib.resources import resource
from MedicalSAM3Lib.routes_page import HEADERS
from MedicalSAM3Lib.structures import Finding, Segmentation, Volume

TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".gz": "text/javascript"}
SAMPLE = "ct_upper_abdomen"
LAST = ("done", "failed", "cancelled")


@dataclass
class Job:
    """A job and all that was said about it."""

    name: str
    volume: str
    concepts: list[str]
    state: str = "queued"
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    findings: tuple[Finding, ...] = ()
    segmentation: Segmentation | None = None


class World:
    """What the server knows. With a ``gate`` a job waits there at its start and before each concept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.masks: dict[str, np.ndarray] = {}
        self.gate: threading.Semaphore | None = None
        self.token = ""
        self.drops = 0
        self.volumes: dict[str, Volume] = {}
        self.uploads: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, Job] = {}
        self.orders: list[dict[str, Any]] = []
        self.seen: list[str] = []
        self.changed = threading.Condition()

    def run(self, job: Job) -> None:
        """Segment by looking the masks up, saying so in events."""
        volume = self.volumes[job.volume]
        self.tell(job, "queued", {"position": 1})
        self.wait(job)
        total = volume.shape_kji[0]
        for done in range(0, total + 1, max(1, total // 4)):
            self.say_progress(job, "features", done, total)
        layer = np.zeros(volume.shape_kji, np.uint16)
        for label, phrase in enumerate(job.concepts, start=1):
            self.wait(job)
            mask = self.masks.get(phrase)
            if mask is not None:
                layer[mask] = label
            job.findings += (finding_of(phrase, mask, label, volume),)
            self.tell(job, "finding", {"index": label - 1, "finding": json_of(job.findings[-1])})
            self.say_progress(job, "labels", label, len(job.concepts))
        job.segmentation = Segmentation((layer,), volume.ijk_to_lps, job.findings)
        if job.state != "cancelled":
            self.tell(job, "done", {})

    def wait(self, job: Job) -> None:
        while self.gate and job.state != "cancelled" and not self.gate.acquire(timeout=0.02):
            pass

    def say_progress(self, job: Job, stage: str, done: int, total: int) -> None:
        if job.state != "cancelled":
            job.state = "running"
            progress = {"stage": stage, "done": done, "total": total, "fraction": done / total, "seconds_left": 42.0}
            self.tell(job, "progress", progress)

    def tell(self, job: Job, name: str, data: dict[str, Any]) -> None:
        with self.changed:
            if job.state in LAST:
                return
            job.state = name if name in LAST else job.state
            job.events.append((name, data))
            self.changed.notify_all()


def finding_of(phrase: str, mask: np.ndarray | None, label: int, volume: Volume) -> Finding:
    """The answer to a concept whose mask is known."""
    if mask is None:
        return Finding(phrase, "not_found", reason="Presence 4 % is below the threshold of 50 %.", presence=0.04)
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    colour = next((c.colour for c in load_concepts() if c.name == phrase), (200, 40, 160))
    first, middle, last = (int(slices[at]) for at in (0, len(slices) // 2, -1))
    return Finding(
        phrase, "found", phrase, "", 0.98, 0.91, int(mask.sum()), float(mask.sum()) * volume.voxel_ml,
        (first, last), (first, middle), 1, colour, layer=0, label=label,
    )  # fmt: skip


def json_of(finding: Finding) -> dict[str, Any]:
    """As the report has it."""
    return asdict(finding)


def box_of(mask: np.ndarray) -> list[int]:
    """Half-open box k0, k1, j0, j1, i0, i1."""
    spans = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return [int(edge) for span in spans for edge in (span[0], span[-1] + 1)]


def segments_of(job: Job) -> list[dict[str, Any]]:
    """The masks of a job that has ended."""
    found = [(at, finding) for at, finding in enumerate(job.findings) if finding.state == "found"]
    return [
        {
            "index": index, "finding": at, "name": finding.phrase, "instance": None, "colour": finding.colour,
            "codes": {}, "voxels": finding.voxels, "box_kji": box_of(job.segmentation.mask_kji(finding)),
        }
        for index, (at, finding) in enumerate(found)
        if job.segmentation
    ]  # fmt: skip


def unpacked(path: Path) -> Path:
    """A folder with what a zip holds."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        archive.extractall(path.with_suffix(""))
    return path.with_suffix("")


def series_of(folder: Path) -> list[dict[str, Any]]:
    """What there is to choose from, where a folder holds several series."""
    listed = list_series(folder)
    return [
        {"index": info.position, "modality": info.modality, "n_slices": info.num_images, "rows": 3, "columns": 4}
        for info in (listed if len(listed) > 1 else ())
    ]


class Handler(BaseHTTPRequestHandler):
    """One request. The names of the methods are those of the standard library."""

    protocol_version = "HTTP/1.1"
    world: World

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.handle_any("GET")

    def do_POST(self) -> None:
        self.handle_any("POST")

    def do_PUT(self) -> None:
        self.handle_any("PUT")

    def do_DELETE(self) -> None:
        self.handle_any("DELETE")

    def handle_any(self, method: str) -> None:
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = [part for part in parts.path.split("/") if part]
        self.world.seen.append(f"{method} {parts.path}")
        if not path or path[0] == "web":
            return self.page(path[1] if path else "index.html")
        if self.world.token and self.headers.get("Authorization") != f"Bearer {self.world.token}":
            return self.refuse(401, "token", "Expected a token; ask whoever runs this server for one.")
        kind, rest = path[1], path[2:]
        route = getattr(self, f"{method.lower()}_{kind}", None)
        return route(*rest) if route else self.refuse(404, "route", "There is nothing here.")

    def page(self, name: str) -> None:
        data = resource("web", name).read_bytes()
        extra = {"Content-Encoding": "gzip"} if name.endswith(".gz") else {}
        self.reply(data, TYPES[Path(name).suffix], {**HEADERS, **extra})

    def reply(self, data: bytes, kind: str, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def answer(self, value: object, status: int = 200) -> None:
        self.reply(json.dumps(value).encode(), "application/json", status=status)

    def refuse(self, status: int, code: str, message: str) -> None:
        self.answer({"code": code, "message": message}, status)

    def get_capabilities(self) -> None:
        model = {"name": "tiny", "demonstration": True, "notice": "Demonstration model."}
        limits = {"upload_bytes": 50_000_000, "chunk_bytes": 65536}
        schema = SegmentSettings.model_json_schema()
        self.answer({"api": "1", "model": model, "limits": limits, "settings_schema": schema})

    def get_models(self) -> None:
        self.answer([
            {"name": "tiny", "title": "Tiny", "state": "ready", "demonstration": True},
            {"name": "clinic", "title": "Clinic's own", "state": "ready", "demonstration": False},
            {"name": "away", "title": "Elsewhere", "state": "absent", "demonstration": False},
        ])  # fmt: skip

    def get_concepts(self) -> None:
        typed = self.query["q"].lower()
        found = [c for c in load_concepts() if any(typed in phrase for phrase in c.phrases)]
        found.sort(key=lambda concept: not concept.name.startswith(typed))
        entries = [{"name": c.name, "synonyms": c.synonyms, "side": c.side, "colour": c.colour} for c in found]
        self.answer(entries[: int(self.query["limit"])])

    def get_samples(self, name: str = "", what: str = "") -> None:
        if what == "file":
            return self.reply(resource("samples", f"{name}.nii.gz").read_bytes(), "application/octet-stream")
        return self.answer([{"name": SAMPLE, "title": "CT of the upper abdomen"}])

    def post_samples(self, name: str) -> None:
        self.world.volumes["sample"] = read_volume(resource("samples", f"{name}.nii.gz"))
        self.volume("sample")

    def volume(self, name: str) -> None:
        volume = self.world.volumes[name]
        self.answer({
            "volume_id": name, "shape_kji": volume.shape_kji, "spacing_mm": volume.spacing_mm,
            "modality": volume.modality, "affine": volume.ijk_to_lps.tolist(), "is_picture": volume.is_2d,
            "series": [], "notices": [],
        })  # fmt: skip

    def get_volumes(self, name: str, what: str = "") -> None:
        if name not in self.world.volumes:
            return self.refuse(404, "volume", "Expected a volume of yours; send it again.")
        return self.preview(self.world.volumes[name]) if what else self.volume(name)

    def delete_volumes(self, name: str) -> None:
        del self.world.volumes[name]
        self.reply(b"", "application/json", status=204)

    def delete_jobs(self, name: str) -> None:
        job = self.world.jobs.pop(name, None)
        if job:
            return self.answer(self.job(job))
        return self.refuse(404, "job", "Expected a job of yours.")

    def preview(self, volume: Volume) -> None:
        volume_preview.write(self.world.folder, volume)
        name = volume_preview.PICTURE if volume.is_2d else volume_preview.VOLUME
        self.reply((self.world.folder / name).read_bytes(), "application/octet-stream")

    def post_volumes(self) -> None:
        wanted = json.loads(self.body)
        name = f"upload{len(self.world.uploads)}"
        self.world.uploads[name] = {**wanted, "data": b""}
        self.answer({"upload_id": name, "received": 0, "bytes": wanted["bytes"], "chunk_bytes": 65536}, 201)

    def get_uploads(self, name: str) -> None:
        self.answer({"received": len(self.world.uploads[name]["data"])})

    def put_uploads(self, name: str) -> None:
        upload = self.world.uploads[name]
        if self.world.drops:
            self.world.drops -= 1
            self.close_connection = True
            return
        if int(self.query["offset"]) != len(upload["data"]):
            return self.refuse(409, "offset", "Expected another offset.")
        packed = self.headers.get("Content-Encoding")
        upload["data"] += gzip.decompress(self.body) if packed == "gzip" else self.body
        return self.answer({"received": len(upload["data"])})

    def post_uploads(self, name: str, _: str) -> None:
        upload = self.world.uploads[name]
        if hashlib.sha256(upload["data"]).hexdigest() != upload["sha256"]:
            return self.refuse(422, "checksum", "Expected another checksum; send the file again.")
        path = self.world.folder / f"{name}-{upload['filename']}"
        path.write_bytes(upload["data"])
        if path.suffix == ".zip":
            path = unpacked(path)
            if (entries := series_of(path)) and "series" not in self.query:
                message = f"Expected one DICOM series, got {len(entries)}; choose one of them by its index."
                return self.answer({"code": "series", "message": message, "series": entries}, 422)
        try:
            series = f"#{self.query['series']}" if "series" in self.query else None
            self.world.volumes[name] = read_volume(path, series=series)
        except Exception:
            return self.refuse(422, "unreadable", "Expected an image, got a file that is damaged; export it again.")
        return self.volume(name)

    def post_jobs(self, name: str = "", _: str = "") -> None:
        if name:
            job = self.world.jobs[name]
            self.world.tell(job, "cancelled", {})
            return self.answer(self.job(job))
        order = json.loads(self.body)
        self.world.orders.append(order)
        job = Job(f"job{len(self.world.jobs)}", order["volume_id"], order["concepts"])
        self.world.jobs[job.name] = job
        threading.Thread(target=self.world.run, args=(job,), daemon=True).start()
        return self.answer(self.job(job), 202)

    def job(self, job: Job) -> dict[str, Any]:
        done = job.state == "done"
        return {
            "job_id": job.name, "kind": "segment", "state": job.state, "volume_id": job.volume,
            "position": 1 if job.state == "queued" else None, "concepts": job.concepts,
            "notices": ["Read twice."] if done else [], "error": None,
            "findings": [json_of(finding) for finding in job.findings], "segments": segments_of(job) if done else [],
            "progress": {"stage": "", "done": 0, "total": 0, "fraction": 0.0, "seconds_left": None},
        }  # fmt: skip

    def get_jobs(self, name: str, *rest: str) -> None:
        job = self.world.jobs.get(name)
        if not job:
            return self.refuse(404, "job", "Expected a job of yours.")
        if not rest:
            return self.answer(self.job(job))
        return {"events": self.events, "segments": self.mask, "segmentation": self.file, "report": self.report}[
            rest[0]
        ](job, *rest[1:])

    def report(self, job: Job) -> None:
        self.answer({"schema_version": "1", "run": {"axis": 2}, "findings": [json_of(one) for one in job.findings]})

    def mask(self, job: Job, index: str, _: str) -> None:
        assert job.segmentation
        segment = segments_of(job)[int(index)]
        k0, k1, j0, j1, i0, i1 = segment["box_kji"]
        crop = job.segmentation.mask_kji(job.findings[segment["finding"]])[k0:k1, j0:j1, i0:i1]
        headers = {
            "X-Mask-Shape": ",".join(map(str, crop.shape)),
            "X-Mask-Box": ",".join(map(str, segment["box_kji"])),
            "X-Mask-Voxels": str(segment["voxels"]),
        }
        packed = np.packbits(crop, bitorder="little").tobytes()
        self.reply(gzip.compress(packed), "application/octet-stream", headers)

    def file(self, job: Job) -> None:
        assert job.segmentation
        path = self.world.folder / f"segmentation.{self.query['format']}"
        write_segmentation(path, job.segmentation, self.world.volumes[job.volume])
        self.reply(path.read_bytes(), "application/octet-stream")

    def events(self, job: Job) -> None:
        """All events after the last one that the client saw; the connection drops once where a test wants it."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        at = int(self.headers.get("Last-Event-ID") or 0)
        while True:
            with self.world.changed:
                while len(job.events) <= at:
                    self.world.changed.wait(1)
                    self.wfile.write(b": still here\n\n")
            name, data = job.events[at]
            at += 1
            self.wfile.write(f"id: {at}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode())
            if name in LAST:
                return
            if self.world.drops and at == 2:
                self.world.drops -= 1
                return
            time.sleep(0.01)


def serve(folder: Path) -> tuple[ThreadingHTTPServer, World]:
    """A server on a free port of 127.0.0.1, running in a thread of its own."""
    world = World(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"world": world}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, world
