"""Every fault of a network and of a disk, played by a fake transport."""

from __future__ import annotations

import errno
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from MedicalSAM3Lib.download import HubTransport, RemoteFile, Request, fetch
from MedicalSAM3Lib.errors import Cancelled, OutputError, RunError, WeightsError
from Testing.lib.fake_transport import FakeTransport

CONTENT = bytes(range(256)) * 40
REQUEST = Request("owner/model", "weights.pt", sha256=hashlib.sha256(CONTENT).hexdigest())


def test_a_file_arrives_whole_with_progress(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = fetch(REQUEST, tmp_path, FakeTransport(CONTENT), lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "weights.pt"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.pt"]


def test_it_goes_on_where_it_broke(tmp_path: Path) -> None:
    transport = FakeTransport(CONTENT, breaks_after=3000)
    with pytest.raises(RunError, match="goes on where it stopped"):
        fetch(REQUEST, tmp_path, transport)
    assert not (tmp_path / "weights.pt").exists()
    assert (tmp_path / "weights.pt.part").read_bytes() == CONTENT[:3000]
    transport.breaks_after = None
    assert fetch(REQUEST, tmp_path, transport).read_bytes() == CONTENT
    assert transport.starts == [0, 3000]


def test_a_server_that_sends_less_than_it_said_is_a_broken_connection(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        fetch(REQUEST, tmp_path, FakeTransport(CONTENT, ends_after=5000))
    assert (tmp_path / "weights.pt.part").stat().st_size == 5000


def test_a_whole_part_is_not_asked_for_again(tmp_path: Path) -> None:
    (tmp_path / "weights.pt.part").write_bytes(CONTENT)
    transport = FakeTransport(CONTENT)
    assert fetch(REQUEST, tmp_path, transport).read_bytes() == CONTENT
    assert transport.starts == []


def test_a_longer_part_of_another_version_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "weights.pt.part").write_bytes(CONTENT + b"more")
    assert fetch(REQUEST, tmp_path, FakeTransport(CONTENT)).read_bytes() == CONTENT


def test_a_file_that_is_there_is_checked_and_kept(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(CONTENT)
    transport = FakeTransport(CONTENT)
    fetch(REQUEST, tmp_path, transport)
    assert transport.starts == []
    (tmp_path / "weights.pt").write_bytes(CONTENT[::-1])
    assert fetch(REQUEST, tmp_path, transport).read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_removed(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"weights\.pt arrived damaged .*SHA-256"):
        fetch(REQUEST, tmp_path, FakeTransport(CONTENT[::-1]))
    assert list(tmp_path.iterdir()) == []


def test_the_servers_hash_counts_where_the_catalogue_has_none(tmp_path: Path) -> None:
    request = Request("owner/model", "weights.pt")
    with pytest.raises(WeightsError, match="SHA-256"):
        fetch(request, tmp_path, FakeTransport(CONTENT, declared="0" * 64))
    assert fetch(request, tmp_path, FakeTransport(CONTENT)).read_bytes() == CONTENT


@pytest.mark.parametrize("where", ["describe", "read"])
def test_a_gated_repository_says_where_to_accept(tmp_path: Path, where: str) -> None:
    with pytest.raises(WeightsError, match=r"accept it on https://huggingface\.co/owner/model, then set HF_TOKEN"):
        fetch(REQUEST, tmp_path, FakeTransport(CONTENT, fails={where: PermissionError()}))


def test_the_token_is_passed_on_and_never_shown(tmp_path: Path) -> None:
    request = Request("owner/model", "weights.pt", token="hf_secret")
    transport = FakeTransport(CONTENT, fails={"read": PermissionError()})
    with pytest.raises(WeightsError) as raised:
        fetch(request, tmp_path, transport)
    assert transport.tokens == ["hf_secret", "hf_secret"]
    assert "hf_secret" not in str(raised.value)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"'owner/model' has no file weights\.pt"):
        fetch(REQUEST, tmp_path, FakeTransport(CONTENT, fails={"describe": FileNotFoundError()}))


def test_too_small_a_disk_is_told_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    transport = FakeTransport(CONTENT)
    with pytest.raises(OutputError, match=r"GB of free disk for weights\.pt"):
        fetch(REQUEST, tmp_path, transport)
    assert transport.starts == []


def test_a_disk_that_fills_up_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.FileIO):
        def write(self, block: bytes) -> int:  # type: ignore[override]
            if self.tell() >= 4000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(block)

    real = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, mode="r", **rest: Full(path, mode) if mode == "ab" else real(path, mode, **rest)
    )
    with pytest.raises(OutputError, match=r"no space left on device; make room"):
        fetch(REQUEST, tmp_path, FakeTransport(CONTENT))
    assert (tmp_path / "weights.pt.part").stat().st_size == 4000


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="MEDSAM3_HOME"):
        fetch(REQUEST, tmp_path / "file" / "folder", FakeTransport(CONTENT))


def test_offline_mode_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSAM3_OFFLINE", "1")
    transport = FakeTransport(CONTENT)
    with pytest.raises(WeightsError, match="MEDSAM3_OFFLINE is set"):
        fetch(REQUEST, tmp_path, transport)
    assert transport.tokens == []


def test_cancel_keeps_what_arrived(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done >= 2000:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        fetch(REQUEST, tmp_path, FakeTransport(CONTENT), stop)
    assert (tmp_path / "weights.pt.part").read_bytes() == CONTENT[:2000]


class Response:
    """What an HTTP client gives for a stream."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def iter_bytes(self, size: int) -> Iterator[bytes]:
        yield CONTENT


class Session:
    """An HTTP client that notes its headers."""

    def __init__(self, status_code: int) -> None:
        self.status_code, self.headers = status_code, {}

    def stream(self, method: str, url: str, headers: dict[str, str], follow_redirects: bool) -> Response:
        self.headers = headers
        return Response(self.status_code)


FILE = RemoteFile("https://huggingface.co/owner/model/resolve/main/weights.pt", len(CONTENT), None)


def test_the_hub_is_asked_for_a_range_with_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(206)
    monkeypatch.setattr("huggingface_hub.get_session", lambda: session)
    monkeypatch.setattr("huggingface_hub.utils.hf_raise_for_status", lambda response: None)
    assert b"".join(HubTransport().read(FILE, 77, "hf_x")) == CONTENT
    assert session.headers["Range"] == "bytes=77-"
    assert session.headers["authorization"] == "Bearer hf_x"


def test_a_hub_that_starts_over_is_not_appended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_session", lambda: Session(200))
    monkeypatch.setattr("huggingface_hub.utils.hf_raise_for_status", lambda response: None)
    with pytest.raises(ConnectionError):
        list(HubTransport().read(FILE, 77, None))


@pytest.mark.parametrize(
    ("size", "etag", "expected"), [(5, "a" * 64, "a" * 64), (5, "0123abc", None), (5, "g" * 64, None), (5, None, None)]
)
def test_the_hubs_entity_tag_is_a_hash_only_if_it_looks_like_one(
    size: int, etag: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = type("Found", (), {"size": size, "etag": etag})
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url, token: found)
    file = HubTransport().describe("owner/model", "weights.pt", "main", None)
    assert file == RemoteFile(FILE.url, size, expected)


def hub_error(name: str, status: int) -> Exception:
    from huggingface_hub import errors

    error = getattr(errors, name).__new__(getattr(errors, name))
    error.response = type("Answer", (), {"status_code": status})
    return error


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("GatedRepoError", 403, PermissionError),
        ("RepositoryNotFoundError", 401, PermissionError),
        ("RemoteEntryNotFoundError", 404, FileNotFoundError),
        ("RevisionNotFoundError", 404, FileNotFoundError),
        ("HfHubHTTPError", 401, PermissionError),
        ("HfHubHTTPError", 503, ConnectionError),
        ("OfflineModeIsEnabled", 0, ConnectionError),
    ],
)
def test_the_hubs_errors_become_those_that_were_promised(
    name: str, status: int, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(url: str, token: str | None) -> None:
        raise hub_error(name, status)

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", fails)
    with pytest.raises(kind):
        HubTransport().describe("owner/model", "weights.pt", "main", None)
