"""Sending to an archive: what travels, and what is said when the archive does not keep it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from requests.adapters import BaseAdapter

from MedicalSAM3Lib import dicom_send
from MedicalSAM3Lib.dicom_send import TOKEN_VARIABLE, check_send, send
from MedicalSAM3Lib.errors import Denied, ServerError, SettingsError, Unreachable
from Testing.lib.file_worlds import write_dicom

URL = "https://archive.example/dicom-web"


class FakeArchive(BaseAdapter):
    """Takes the place of the network: remembers what was asked and gives one answer."""

    def __init__(self, status: int = 200, body: dict[str, Any] | None = None, fails: Exception | None = None) -> None:
        super().__init__()
        self.status, self.body, self.fails = status, body, fails
        self.requests: list[requests.PreparedRequest] = []

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        self.requests.append(request)
        if self.fails:
            raise self.fails
        response = requests.Response()
        response.status_code, response.request, response.url = self.status, request, str(request.url)
        response.headers["Content-Type"] = "application/dicom+json"
        response.headers["Location"] = "https://elsewhere.example/"
        response._content = json.dumps(self.body).encode() if self.body is not None else b""
        return response

    def close(self) -> None:
        pass


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_dicom(tmp_path / "a.dcm", np.arange(12, dtype=np.int16).reshape(3, 4), PatientID="secret-id")


@pytest.fixture
def sent(file: Path) -> Callable[[FakeArchive], None]:
    def to(archive: FakeArchive) -> None:
        session = requests.Session()
        session.mount("https://", archive)
        send(file, URL, session)

    return to


def test_the_object_travels_whole_in_one_request(sent: Callable[..., None], file: Path) -> None:
    archive = FakeArchive()
    sent(archive)
    (request,) = archive.requests
    assert (request.method, request.url) == ("POST", f"{URL}/studies")
    assert request.headers["Content-Type"].startswith('multipart/related; type="application/dicom"')
    assert file.read_bytes() in request.body
    assert "Authorization" not in request.headers


def test_the_token_comes_from_the_environment(sent: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "key")
    archive = FakeArchive()
    sent(archive)
    assert archive.requests[0].headers["Authorization"] == "Bearer key"


@pytest.mark.parametrize(
    ("archive", "error", "says"),
    [
        (FakeArchive(401), Denied, f"answered 401; put its token into {TOKEN_VARIABLE}"),
        (FakeArchive(403), Denied, "answered 403"),
        (FakeArchive(302), Unreachable, "got none at the address"),
        (FakeArchive(409), ServerError, "answered 409; the file stays"),
        (FakeArchive(503), ServerError, "answered 503"),
        (FakeArchive(202, {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [272]}}]}}),
         ServerError, "refused with reason 0x0110"),
        (FakeArchive(202, {"00081198": {"vr": "SQ", "Value": [{}]}}), ServerError, "refused without a reason"),
        (FakeArchive(200, {"nonsense": 3}), ServerError, "Expected an answer as DICOMweb has it"),
        (FakeArchive(fails=requests.ConnectionError("secret-id")), Unreachable, "got none at the address"),
        (FakeArchive(fails=requests.Timeout("secret-id")), Unreachable, "got none at the address"),
    ],
)  # fmt: skip
def test_what_the_archive_did_not_keep_is_an_error(
    sent: Callable[..., None],
    file: Path,
    caplog: pytest.LogCaptureFixture,
    archive: FakeArchive,
    error: type[Exception],
    says: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(error, match=says) as caught:
        sent(archive)
    assert "secret" not in str(caught.value)
    assert caplog.text == ""
    assert len(archive.requests) == 1
    assert file.is_file()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "archive",
        "ftp://archive/x",
        "https://",
        "https://name:word@archive/x",
        "https://archive:x/",
        "https://a/?b=1",
    ],
)
def test_what_is_no_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(SettingsError, match="send: expected the address of a DICOMweb service") as caught:
        check_send(url)
    assert "word" not in str(caught.value).replace("password", "")


def test_a_token_does_not_travel_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    check_send("http://archive.example/x")
    monkeypatch.setenv(TOKEN_VARIABLE, "key")
    check_send("http://127.0.0.1:8042/dicom-web")
    with pytest.raises(SettingsError, match="https:// for an archive that asks for a token"):
        check_send("http://archive.example/x")


def test_without_the_package_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_send, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"'dicomweb_client' is missing; pip install 'medical-sam3\[dicom\]'"):
        check_send(URL)
