"""The routes by which images come in: ``/v1/volumes``, ``/v1/uploads``, ``/v1/samples``, ``/v1/features``."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import FileResponse

from MedicalSAM3Lib import routing, samples, volume_preview, wire, wire_about
from MedicalSAM3Lib.refusals import Refused
from MedicalSAM3Lib.routing import FrontOf, WhoOf
from MedicalSAM3Lib.shelf import Shelved, Source
from MedicalSAM3Lib.uploads import Upload

router = APIRouter(prefix="/v1", tags=["volumes"], responses=routing.REFUSALS)

_WORTH_ANOTHER_TRY = ("series", "frame", "disk_full")
"""Refusals after which the same file can be completed again."""

Series = Annotated[int | None, Query(ge=1, le=100_000, description="Which series of an archive, from 1.")]
Frame = Annotated[int | None, Query(ge=0, le=1_000_000, description="Which frame of a 4D image, from 0.")]


@router.post("/volumes", status_code=201, responses={200: {"model": wire.VolumeEntry}})
async def open_upload(
    asked: wire.UploadRequest, front: FrontOf, who: WhoOf, response: Response, key: routing.KeyOf = None
) -> wire.Upload | wire.VolumeEntry:
    """Announce a file. 201: send its bytes; 200: its content is here already, as a volume of yours."""
    content = Source(Path(), asked.bytes, asked.sha256, modality=asked.modality, is_picture=asked.is_picture)
    volume = front.shelf.peek(front.shelf.name_of(who.owner, content))
    if volume is not None:
        response.status_code = 200
        return volume_entry(front.shelf.find(who.owner, volume.volume_id))
    before = front.keys.recall(who.owner, "volumes", key, asked)
    if before is not None and any(upload.upload_id == before for upload in front.uploads):
        return _upload(front.uploads.find(who.owner, before), front.settings.chunk_bytes)
    upload = front.uploads.open(who.owner, asked.filename, asked.bytes, asked.sha256, who.lane)
    upload.modality, upload.is_picture = asked.modality, asked.is_picture
    front.keys.remember(who.owner, "volumes", key, asked, upload.upload_id)
    return _upload(upload, front.settings.chunk_bytes)


@router.get("/volumes")
async def list_volumes(front: FrontOf, who: WhoOf) -> list[wire.VolumeEntry]:
    """Your volumes."""
    return [volume_entry(volume) for volume in front.shelf if volume.owner == who.owner]


@router.get("/volumes/{volume_id}")
async def get_volume(volume_id: str, front: FrontOf, who: WhoOf) -> wire.VolumeEntry:
    """A volume of yours."""
    return volume_entry(front.shelf.find(who.owner, volume_id))


@router.get("/volumes/{volume_id}/preview", response_class=FileResponse, responses=routing.BINARY)
async def get_preview(volume_id: str, front: FrontOf, who: WhoOf) -> FileResponse:
    """The volume as it was read, for a viewer: NIfTI (.nii.gz), or PNG of a picture."""
    volume = front.shelf.find(who.owner, volume_id)
    path = await volume_preview.preview(volume.folder, volume.facts["is_2d"], front.settings.decode_s)
    kind = "image/png" if volume.facts["is_2d"] else "application/octet-stream"
    return FileResponse(path, filename=path.name, media_type=kind)


@router.delete("/volumes/{volume_id}", status_code=204)
async def remove_volume(volume_id: str, front: FrontOf, who: WhoOf) -> None:
    """Remove a volume and what the engines remember of it; results of its jobs stay."""
    volume = front.shelf.find(who.owner, volume_id)
    if not volume.users:
        await front.drop_features([volume.folder])
    front.shelf.remove(volume)


@router.put("/uploads/{upload_id}", openapi_extra=routing.RAW_BODY)
async def receive_chunk(
    upload_id: str,
    front: FrontOf,
    who: WhoOf,
    request: Request,
    offset: Annotated[int, Query(ge=0, lt=1 << 62, description="Where the chunk begins: at `received`.")],
    content_encoding: Annotated[str, Header(description="gzip, deflate or none, for this chunk alone.")] = "",
    x_chunk_sha256: Annotated[str, Header(description="SHA-256 of the expanded chunk, hexadecimal; checked.")] = "",
) -> wire.Upload:
    """Send the next bytes of a file. What broke off does not count; 409 "offset" says where to go on."""
    upload = front.uploads.find(who.owner, upload_id)
    before = upload.received
    await front.uploads.receive(upload, offset, request.stream(), content_encoding, x_chunk_sha256)
    front.metrics.received.inc(upload.received - before)
    return _upload(upload, front.settings.chunk_bytes)


@router.get("/uploads/{upload_id}")
async def get_upload(upload_id: str, front: FrontOf, who: WhoOf) -> wire.Upload:
    """How much of a file has arrived."""
    return _upload(front.uploads.find(who.owner, upload_id), front.settings.chunk_bytes)


@router.delete("/uploads/{upload_id}", status_code=204)
async def remove_upload(upload_id: str, front: FrontOf, who: WhoOf) -> None:
    """Give an upload up."""
    front.uploads.discard(front.uploads.find(who.owner, upload_id))


@router.post("/uploads/{upload_id}/complete")
async def complete_upload(
    upload_id: str, front: FrontOf, who: WhoOf, series: Series = None, frame: Frame = None
) -> wire.VolumeEntry:
    """Check and decode a file. 422 "series" (which lists what an archive holds) or "frame": ask again with one of them.

    Otherwise the upload is over, whether a volume has come of it or not.
    """
    upload = front.uploads.find(who.owner, upload_id)
    front.uploads.check_whole(upload)
    source = Source(upload.file, upload.num_bytes, upload.sha256, series, frame, upload.modality, upload.is_picture)
    try:
        volume = await front.shelf.decode(who.owner, source)
    except Refused as refused:
        if refused.code not in _WORTH_ANOTHER_TRY:
            front.uploads.discard(upload)
        raise
    front.uploads.discard(upload)
    return volume_entry(volume)


@router.get("/samples")
async def list_samples() -> list[wire_about.SampleEntry]:
    """Images that came with this software."""
    return [wire_about.SampleEntry(name=name, title=sample.title) for name, sample in samples.SAMPLES.items()]


@router.post("/samples/{name}")
async def open_sample(name: str, front: FrontOf, who: WhoOf) -> wire.VolumeEntry:
    """A sample as a volume of yours."""
    path = samples.path_of(name)
    content = await asyncio.to_thread(path.read_bytes)
    source = Source(path, len(content), hashlib.sha256(content).hexdigest())
    return volume_entry(await front.shelf.decode(who.owner, source))


@router.get("/samples/{name}/file", response_class=FileResponse)
async def get_sample(name: str) -> FileResponse:
    """The file of a sample."""
    path = samples.path_of(name)
    return FileResponse(path, filename=path.name, media_type="application/octet-stream")


@router.delete("/features")
async def drop_features(front: FrontOf, who: WhoOf) -> wire_about.Freed:
    """Forget what the engines remember of your volumes; on a server without tokens, of all."""
    own = [volume.folder for volume in front.shelf if volume.owner == who.owner]
    volumes = own if front.settings.tokens else None
    return wire_about.Freed(freed_bytes=await front.drop_features(volumes))


def volume_entry(volume: Shelved) -> wire.VolumeEntry:
    """A volume as a client sees it."""
    facts: dict[str, Any] = volume.facts
    return wire.VolumeEntry(
        volume_id=volume.volume_id,
        shape_kji=facts["shape"][:3],
        spacing_mm=facts["spacing_mm"],
        modality=facts["modality"],
        affine=facts["ijk_to_lps"],
        is_picture=facts["is_2d"],
        bytes=volume.num_bytes,
        series=[wire.SeriesEntry(**entry) for entry in volume.series],
        notices=volume.notices,
    )


def _upload(upload: Upload, chunk_bytes: int) -> wire.Upload:
    return wire.Upload(
        upload_id=upload.upload_id, received=upload.received, bytes=upload.num_bytes, chunk_bytes=chunk_bytes
    )
