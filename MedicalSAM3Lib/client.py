"""The client of a server: for 3D Slicer's own Python, for scripts, and for ``medsam3 segment --server``.

    client = Client("https://gpu-host:8765", token)
    client.check()
    volume = client.upload(array_kji, ijk_to_lps, modality="CT")
    job = client.submit(volume["volume_id"], ["liver", "left kidney"])
    for event in client.events(job["job_id"]):
        print(event.kind, event.data)
    for segment, mask_kji in client.masks(job["job_id"]):
        ...

NumPy and the standard library only. Errors are those of ``errors.ServerError``, and may be shown to users as they are.
A client may be used from several threads; each request has a connection of its own.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from MedicalSAM3Lib import client_upload
from MedicalSAM3Lib.atomic import replacing
from MedicalSAM3Lib.client_check import fit
from MedicalSAM3Lib.client_events import Event, follow
from MedicalSAM3Lib.client_http import Http
from MedicalSAM3Lib.client_upload import OnBytes
from MedicalSAM3Lib.errors import Cancelled, JobFailed, Mismatch, NotThere
from MedicalSAM3Lib.masks_wire import PackedMask, unpack

Json = dict[str, Any]
OnEvent = Callable[[Event], None]


class Client:
    """A server and what can be asked of it.

    Args:
        url: "http://127.0.0.1:8765", or "https://host/prefix" behind a proxy.
        token: As whoever runs the server gave it; None for a server on this computer.
        certificate: File with the certificate (PEM) that the server's must descend from; None = the system's.
        timeout_s: For a connection, and between two pieces of an answer.
        attempts: How often a request is made before it counts as failed.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        certificate: Path | str | None = None,
        timeout_s: float = 45.0,
        attempts: int = 6,
    ) -> None:
        self._http = Http(url, token, uuid.uuid4().hex, certificate, timeout_s, attempts)

    # --- the server ---

    def health(self) -> Json:
        """What the engines do; needs no token."""
        return self._get("/health")

    def capabilities(self) -> Json:
        """Version, model, devices, formats and limits of the server."""
        return self._get("/v1/capabilities")

    def check(self) -> list[str]:
        """Ask whether this client and the server fit; return what a user should know, one sentence each.

        Raises:
            Mismatch: They do not, or it is another program that answers.
            ServerError: No answer, or no right to one.
        """
        return fit(self.capabilities())

    def concepts(self, text: str = "", limit: int = 20) -> list[Json]:
        """Known concepts that a typed text may stand for, best first."""
        return self._get(f"/v1/concepts?q={_quoted(text)}&limit={limit}")  # type: ignore[return-value]

    # --- volumes ---

    def upload(
        self,
        array: np.ndarray,
        ijk_to_lps: np.ndarray,
        *,
        modality: str = "",
        is_picture: bool = False,
        on_bytes: OnBytes | None = None,
    ) -> Json:
        """Send a volume; see ``client_upload.send_array``. Sent again, it costs nothing: the server knows it."""
        facts = {"modality": modality, "is_picture": is_picture}
        return client_upload.send_array(
            self._http, array, ijk_to_lps, {name: value for name, value in facts.items() if value}, on_bytes
        )

    def upload_file(
        self,
        path: Path | str,
        on_bytes: OnBytes | None = None,
        *,
        series: int | None = None,
        frame: int | None = None,
    ) -> Json:
        """Send a file of an image, or a zip of a DICOM series; see ``client_upload.send_file``."""
        return client_upload.send_file(self._http, path, {"series": series, "frame": frame}, on_bytes)

    def sample(self, name: str) -> Json:
        """A sample of the server as a volume of this client."""
        return self._post(f"/v1/samples/{_quoted(name)}")

    def forget_volume(self, volume_id: str) -> None:
        """Remove a volume from the server; one that is gone already is no error."""
        self._delete(f"/v1/volumes/{_quoted(volume_id)}")

    def drop_features(self) -> int:
        """Give the server's memory back that it keeps for the next concept; return the bytes."""
        return int(self._http.request("DELETE", "/v1/features").json()["freed_bytes"])

    # --- jobs ---

    def submit(
        self,
        volume_id: str,
        concepts: Sequence[str],
        settings: Mapping[str, Any] | None = None,
        model: str = "auto",
        *,
        key: str | None = None,
    ) -> Json:
        """Ask for concepts; return the job. However often the request has to be made, one job comes of it.

        Args:
            settings: Fields of ``SegmentSettings`` as plain values.
            key: The same key and question, also from another client, gives the same job; None = a new one.
        """
        return self._ask("/v1/jobs", volume_id, concepts, settings, model, key)

    def estimate(
        self,
        volume_id: str,
        concepts: Sequence[str],
        settings: Mapping[str, Any] | None = None,
        model: str = "auto",
        on_job: Callable[[str], object] = lambda job_id: None,
    ) -> Json:
        """What a job would take, as ``estimate.Estimate``; ``on_job`` gets the name by which that can be cancelled."""
        told = self._ask("/v1/estimate", volume_id, concepts, settings, model, None)
        on_job(told.get("job_id", ""))
        return dict(self.wait(told["job_id"])["estimate"]) if "job_id" in told else told

    def job(self, job_id: str) -> Json:
        """A job as it stands."""
        return self._get(f"/v1/jobs/{_quoted(job_id)}")

    def jobs(self) -> list[Json]:
        """All jobs of this client, the newest first."""
        return self._get("/v1/jobs")  # type: ignore[return-value]

    def events(self, job_id: str, after: int = 0) -> Iterator[Event]:
        """What happens to a job until it ends, through dropped connections; ``after`` leaves events out."""
        return follow(self._http, _quoted(job_id), after)

    def wait(self, job_id: str, on_event: OnEvent | None = None) -> Json:
        """Wait for the end of a job and return it. What ``on_event`` raises cancels the job.

        Raises:
            JobFailed: It failed; the message says why.
            Cancelled: It was cancelled.
            ServerError: The server cannot be reached any more.
        """
        for event in self.events(job_id):
            try:
                if on_event:
                    on_event(event)
            except BaseException:
                self.cancel(job_id)
                raise
        job = self.job(job_id)
        if job["state"] == "cancelled":
            raise Cancelled("The job was cancelled.")
        if job["state"] != "done":
            told = job["error"] or {}
            raise JobFailed(told.get("message") or "The job failed without a reason.", told.get("code", ""))
        return job

    def cancel(self, job_id: str) -> Json:
        """End a job; one that has ended stays as it is."""
        return self._post(f"/v1/jobs/{_quoted(job_id)}/cancel")

    def forget(self, job_id: str) -> None:
        """Cancel a job and remove its results; one that is gone already is no error."""
        self._delete(f"/v1/jobs/{_quoted(job_id)}")

    # --- results ---

    def masks(self, job_id: str) -> Iterator[tuple[Json, np.ndarray]]:
        """Each segment of a job that is done, and its boolean mask ``(K, J, I)``.

        Raises:
            Mismatch: A mask was damaged on its way.
        """
        shape = self.report(job_id)["input"]["shape_kji"]
        for segment in self.job(job_id)["segments"]:
            yield segment, self.mask(job_id, segment, shape)

    def mask(self, job_id: str, segment: Mapping[str, Any], shape_kji: Sequence[int]) -> np.ndarray:
        """The boolean mask ``(K, J, I)`` of one segment; where it is not empty says its ``box_kji``.

        Raises:
            Mismatch: It was damaged on its way.
        """
        reply = self._http.request("GET", f"/v1/jobs/{_quoted(job_id)}/segments/{segment['index']}/mask")
        k, j, i = shape_kji
        box = None if segment["box_kji"] is None else tuple(segment["box_kji"])
        try:
            return unpack(PackedMask(box, segment["voxels"], reply.body), (k, j, i))
        except ValueError as error:
            raise Mismatch("Expected a mask, got damaged data; fetch it again.") from error

    def report(self, job_id: str) -> Json:
        """The report of a job, as ``Resources/report.schema.json`` describes it."""
        return self._get(f"/v1/jobs/{_quoted(job_id)}/report")

    def save_segmentation(self, job_id: str, path: Path | str, file_format: str = "seg.nrrd") -> None:
        """Write a job's segmentation as a file on the grid of the volume.

        Raises:
            OutputError: It cannot be written there.
        """
        self._save(f"/v1/jobs/{_quoted(job_id)}/segmentation?format={_quoted(file_format)}", path)

    def save_confidence(self, job_id: str, path: Path | str, file_format: str = "nii.gz") -> None:
        """Write the confidence of each voxel as a file; the settings must have asked for it.

        Raises:
            OutputError: It cannot be written there.
        """
        self._save(f"/v1/jobs/{_quoted(job_id)}/confidence?format={_quoted(file_format)}", path)

    # --- models ---

    def models(self) -> list[Json]:
        """The models that the server knows, and which are ready."""
        return self._get("/v1/models")  # type: ignore[return-value]

    def download_model(self, name: str, on_event: OnEvent | None = None, *, accept_licence: bool = False) -> Json:
        """Let the server download a model, and wait for it."""
        asked = {"accept_licence": accept_licence}
        return self.wait(self._post(f"/v1/models/{_quoted(name)}/download", asked)["job_id"], on_event)

    def verify_model(self, name: str, on_event: OnEvent | None = None) -> Json:
        """Let the server check every file of a model, and wait for it."""
        return self.wait(self._post(f"/v1/models/{_quoted(name)}/verify")["job_id"], on_event)

    def remove_model(self, name: str) -> Json:
        """Let the server remove a model, and wait for it."""
        return self.wait(self._http.request("DELETE", f"/v1/models/{_quoted(name)}").json()["job_id"])

    # --- how ---

    def _ask(
        self,
        path: str,
        volume_id: str,
        concepts: Sequence[str],
        settings: Mapping[str, Any] | None,
        model: str,
        key: str | None,
    ) -> Json:
        asked = {"volume_id": volume_id, "concepts": list(concepts), "settings": dict(settings or {}), "model": model}
        return self._post(path, asked, key)

    def _get(self, path: str) -> Json:
        return self._http.request("GET", path).json()

    def _post(self, path: str, body: Any = None, key: str | None = None) -> Json:
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        return self._http.request("POST", path, json_body=body, headers=headers).json()

    def _delete(self, path: str) -> None:
        try:
            self._http.request("DELETE", path)
        except NotThere:  # or the answer to the first request was lost
            return

    def _save(self, path: str, target: Path | str) -> None:
        reply = self._http.request("GET", path)
        with replacing(Path(target)) as (new,):
            new.write_bytes(reply.body)


def _quoted(text: str) -> str:
    return quote(text, safe="")
