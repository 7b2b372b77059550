"""Send a DICOM object to an archive over DICOMweb (STOW-RS), and hear that it was kept."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from MedicalSAM3Lib.dicom_source import private
from MedicalSAM3Lib.errors import Denied, ServerError, SettingsError, Unreachable

TOKEN_VARIABLE = "MEDSAM3_DICOMWEB_TOKEN"
"""Environment variable with the bearer token of the archive, where it asks for one."""

TIMEOUT_S = (20.0, 600.0)
"""To connect, and for the archive to answer: it checks and files what came before it does."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_send(url: str) -> None:
    """Check an address before anything is computed.

    Raises:
        SettingsError: It is no address of a DICOMweb service, a token would travel in the clear, or the optional
            packages are not installed.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.username or parts.query or parts.fragment:
        raise SettingsError(
            "send: expected the address of a DICOMweb service, such as https://archive/dicom-web, without name or "
            f"password in it (a token goes into {TOKEN_VARIABLE})."
        )
    if parts.scheme == "http" and parts.hostname not in LOOPBACK and os.environ.get(TOKEN_VARIABLE):
        raise SettingsError("send: expected https:// for an archive that asks for a token, got http://.")
    if find_spec("dicomweb_client") is None:
        raise SettingsError(
            "send: expected the packages for DICOMweb, 'dicomweb_client' is missing; pip install 'medical-sam3[dicom]'."
        )


def send(path: Path, url: str, session: Any = None) -> None:
    """Store one file in an archive.

    Args:
        path: A DICOM file.
        url: Base of the DICOMweb service.
        session: The ``requests`` session to send with; one of its own unless given.

    Raises:
        SettingsError: As ``check_send``.
        Denied: The archive wants another token, or none.
        Unreachable: It does not answer.
        ServerError: It did not keep the object. The file stays where it is in any case.
    """
    check_send(url)
    import pydicom
    import requests
    from dicomweb_client.web import DICOMwebClient

    session = session or requests.Session()
    session.max_redirects = 0  # a POST that is sent elsewhere arrives there as a GET, which is answered 200
    token = os.environ.get(TOKEN_VARIABLE)
    headers = {"Authorization": f"Bearer {token}"} if token else None
    with private():
        # One body, sent once: a stream cut in chunks could not be sent again, and an archive knows a second copy.
        client = DICOMwebClient(url, session=session, headers=headers, chunk_size=2**40, timeout=TIMEOUT_S)
        client.set_http_retry_params(retry=False)
        try:
            answer = client.store_instances([pydicom.dcmread(path)])
        except requests.HTTPError as error:
            raise _refusal(int(error.response.status_code)) from None
        except (requests.RequestException, OSError):
            raise Unreachable(
                "Expected an archive that answers, got none at the address of --send; check it, then send the file "
                "that was written."
            ) from None
        except Exception:
            raise ServerError(
                "Expected an answer as DICOMweb has it, got another; see in the archive whether it kept the object."
            ) from None
        failed = answer.get("FailedSOPSequence") or ()
    if failed:
        reason = failed[0].get("FailureReason")
        code = "without a reason" if reason is None else f"with reason 0x{int(reason):04X}"
        raise ServerError(f"Expected the archive to keep the object, it refused {code}; the file stays where it is.")


def _refusal(status: int) -> ServerError:
    if status in (401, 403):
        return Denied(
            f"Expected an archive that lets us store, it answered {status}; put its token into {TOKEN_VARIABLE}.",
            status=status,
        )
    return ServerError(
        f"Expected the archive to keep the object, it answered {status}; the file stays where it is.", status=status
    )
