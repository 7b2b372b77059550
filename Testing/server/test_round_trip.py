"""Over a real socket, with real engines and the bundled model: what a client gets is what the library gives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch

from MedicalSAM3Lib import cli as command_line
from MedicalSAM3Lib.client import Client
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.demo import sample_path
from MedicalSAM3Lib.errors import Cancelled, Denied, JobFailed, NotThere
from MedicalSAM3Lib.files import read_volume
from MedicalSAM3Lib.pipeline import segment
from MedicalSAM3Lib.registry import load_model
from MedicalSAM3Lib.structures import Segmentation, Volume
from Testing.server.flaky_proxy import flaky
from Testing.server.live import Live, live, read_json, wait_until

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks the system for processes")

CONCEPTS = ["liver", "spleen"]
EXACT = {"speed": "exact", "mode": "detect", "overlap": "keep"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("server"), devices="cpu,cpu") as running:
        running.wait_ready()
        yield running


@pytest.fixture(scope="module")
def volume() -> Volume:
    """Four slices of the bundled CT, turned out of every plane of the patient and flipped."""
    whole = read_volume(sample_path())
    turn = np.array([[0.8, -0.6, 0.0, 3.5], [0.6, 0.8, 0.0, -7.25], [0.0, 0.0, -1.0, 0.125], [0.0, 0.0, 0.0, 1.0]])
    return replace(whole, array=whole.array[8:12], ijk_to_lps=turn @ whole.ijk_to_lps, modality="CT")


@pytest.fixture(scope="module")
def own(volume: Volume) -> Segmentation:
    """What the library makes of it."""
    return segment(volume, CONCEPTS, load_model("tiny", "cpu"), make_settings(device="cpu", **EXACT))


@pytest.fixture(scope="module")
def client(server: Live) -> Client:
    return server.client()


@pytest.fixture(scope="module")
def volume_id(client: Client, volume: Volume) -> str:
    return str(client.upload(volume.array, volume.ijk_to_lps, modality="CT")["volume_id"])


def many(client: Client, volume: Volume) -> str:
    """A volume that takes an engine some seconds."""
    array = np.concatenate([volume.array] * 40)
    return str(client.upload(array, volume.ijk_to_lps, modality="CT")["volume_id"])


def same_masks(client: Client, job_id: str, own: Segmentation) -> None:
    found = [finding for finding in own.findings if finding.state == "found"]
    assert found, "else there is nothing to compare"
    masks = list(client.masks(job_id))
    assert [segment["name"] for segment, _ in masks] == [finding.phrase for finding in found]
    for (entry, mask), finding in zip(masks, found, strict=True):
        assert np.array_equal(mask, own.mask_kji(finding))
        assert entry["voxels"] == finding.voxels
        assert tuple(entry["colour"]) == finding.colour


def test_server_and_client_fit(client: Client) -> None:
    assert client.check() == ["'tiny' is a demonstration model: its results show how this works, no more."]


def test_a_volume_arrives_with_its_geometry(client: Client, volume: Volume, volume_id: str) -> None:
    sent: list[tuple[int, int]] = []
    told = client.upload(volume.array, volume.ijk_to_lps, modality="CT", on_bytes=lambda *at: sent.append(at))
    assert told["volume_id"] == volume_id
    assert len(sent) == 1, "what is there is not sent again"
    assert (told["modality"], told["is_picture"]) == ("CT", False)
    np.testing.assert_allclose(told["affine"], volume.ijk_to_lps, atol=1e-10, rtol=0)


def test_two_concepts_equal_the_library_to_the_voxel(
    client: Client, volume_id: str, volume: Volume, own: Segmentation, tmp_path: Path
) -> None:
    job_id = client.submit(volume_id, CONCEPTS, EXACT)["job_id"]
    seen = list(client.events(job_id))
    assert [event.number for event in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].kind == "done"
    shares = [event.data["fraction"] for event in seen if event.kind == "progress"]
    assert shares == sorted(shares)
    assert [event.data["finding"]["phrase"] for event in seen if event.kind == "finding"] == CONCEPTS
    same_masks(client, job_id, own)
    client.save_segmentation(job_id, tmp_path / "out.seg.nrrd")
    image = SimpleITK.ReadImage(str(tmp_path / "out.seg.nrrd"))
    axes = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    np.testing.assert_allclose(axes, volume.ijk_to_lps[:3, :3], atol=1e-9, rtol=0)
    report = client.report(job_id)
    assert report["input"]["name"] == volume_id
    assert [finding["voxels"] for finding in report["findings"]] == [finding.voxels for finding in own.findings]
    # A client that comes later, or again, hears the same from any point on.
    assert list(client.events(job_id, after=3)) == seen[3:]


def test_objects_of_a_concept_are_segments_of_their_own(client: Client, volume_id: str) -> None:
    job = client.wait(client.submit(volume_id, ["vertebra"], {**EXACT, "instances": True})["job_id"])
    [finding] = job["findings"]
    assert len(job["segments"]) == len(finding["objects"]) > 0
    assert sum(int(mask.sum()) for _, mask in client.masks(job["job_id"])) == finding["voxels"]


def test_through_a_bad_network_a_job_runs_once(server: Live, volume: Volume, own: Segmentation, volume_id: str) -> None:
    before = len(server.client().jobs())
    with flaky(server.address, cut_share=0.4) as proxy:
        bad = server.client(proxy.url, attempts=40)
        bad._http.pause = lambda _: None
        array = volume.array + np.float32(1e-3)  # another content: this one is really sent
        other = bad.upload(array, volume.ijk_to_lps, modality="CT")
        assert other["volume_id"] != volume_id
        job_id = bad.submit(volume_id, CONCEPTS, EXACT, key="once")["job_id"]
        assert bad.submit(volume_id, CONCEPTS, EXACT, key="once")["job_id"] == job_id
        numbers = [event.number for event in bad.events(job_id)]
        assert numbers == list(range(1, len(numbers) + 1))
        same_masks(bad, job_id, own)
        assert proxy.cuts > 0
    assert len(server.client().jobs()) == before + 1


def test_an_engine_that_is_killed_fails_its_job_and_the_next_one_runs(
    server: Live, client: Client, volume: Volume, volume_id: str
) -> None:
    before = set(server.engines())
    assert len(before) == 2
    job_id = client.submit(many(client, volume), CONCEPTS, EXACT)["job_id"]
    wait_until(lambda: client.job(job_id)["progress"]["stage"] == "features")
    busy = next(place for place, one in enumerate(client.health()["engines"]) if one["state"] == "busy")
    os.kill(sorted(before)[busy], signal.SIGKILL)  # they were started in this order
    with pytest.raises(JobFailed, match="memory") as failed:
        client.wait(job_id)
    assert failed.value.code == "engine_died"
    assert client.wait(client.submit(volume_id, ["liver"], EXACT)["job_id"])["state"] == "done"
    server.wait_ready()
    assert len(server.engines()) == 2
    assert set(server.engines()) != before


def test_a_cancel_is_heard_while_the_engine_works(client: Client, volume: Volume, volume_id: str) -> None:
    job_id = client.submit(many(client, volume), CONCEPTS, EXACT)["job_id"]
    wait_until(lambda: client.job(job_id)["progress"]["done"] > 0)

    def give_up(_: object) -> None:
        raise Cancelled("The user pressed Cancel.")

    with pytest.raises(Cancelled, match="pressed"):
        client.wait(job_id, give_up)
    assert [event.kind for event in client.events(job_id)][-1] == "cancelled"
    with pytest.raises(Cancelled):
        client.wait(job_id)
    assert client.wait(client.submit(volume_id, ["liver"], EXACT)["job_id"])["state"] == "done"


def test_a_client_that_goes_leaves_its_job_and_finds_it_again(server: Live, client: Client, volume_id: str) -> None:
    with flaky(server.address, cut_share=0.0) as proxy:
        gone = server.client(proxy.url, attempts=1)
        job_id = gone.submit(volume_id, CONCEPTS, EXACT)["job_id"]
        next(gone.events(job_id))
    assert client.wait(job_id)["state"] == "done"


def test_two_engines_share_the_work(client: Client, volume: Volume) -> None:
    volume_id = many(client, volume)
    jobs = [client.submit(volume_id, [concept], EXACT)["job_id"] for concept in CONCEPTS]
    wait_until(lambda: all(client.job(job_id)["state"] == "running" for job_id in jobs))
    assert [engine["state"] for engine in client.health()["engines"]] == ["busy", "busy"]
    for job_id in jobs:
        client.forget(job_id)
    client.forget_volume("unknown")


def test_what_was_forgotten_is_not_there(client: Client, volume_id: str) -> None:
    job_id = client.submit(volume_id, ["liver"], EXACT)["job_id"]
    client.wait(job_id)
    client.forget(job_id)
    client.forget(job_id)
    with pytest.raises(NotThere):
        client.job(job_id)
    with pytest.raises(NotThere):
        next(client.events(job_id))


def test_another_token_sees_nothing(server: Live, volume_id: str) -> None:
    with pytest.raises(Denied, match="token"):
        Client(server.url, "another-token-of-good-length").job("x")
    with pytest.raises(Denied, match="Bearer"):
        Client(server.url).capabilities()


def test_features_are_given_back(client: Client, volume_id: str) -> None:
    client.wait(client.submit(volume_id, ["liver"], EXACT)["job_id"])
    assert client.drop_features() > 0
    assert client.drop_features() == 0


def test_an_estimate_is_answered(client: Client, volume_id: str) -> None:
    told = client.estimate(volume_id, CONCEPTS)
    assert told["seconds"] > 0
    assert told["concepts"] == 2


def test_a_sample_and_the_vocabulary_are_there(client: Client) -> None:
    assert client.concepts("left kid")[0]["concept_id"] == "left_kidney"
    assert client.verify_model("tiny")["state"] == "done"
    assert "tiny" in {model["name"] for model in client.models()}


@pytest.fixture(autouse=True)
def as_many_threads() -> Iterator[None]:
    """As the server's engines: more of them add numbers up in another order, which rounds otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_command_line_gives_the_same_files_by_a_server(
    server: Live, volume: Volume, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "ct.nii.gz"
    image = SimpleITK.GetImageFromArray(volume.array)
    image.SetSpacing((1.5, 1.5, 2.0))
    SimpleITK.WriteImage(image, str(source))
    asked = [source, "-c", "liver", "-c", "spleen", "--speed", "exact", "--mode", "detect", "--overlap", "keep"]

    def files(name: str) -> list[Path]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return [folder / file for file in ("out.seg.nrrd", "report.json", "preview.png", "confidence.nii.gz")]

    def outputs(name: str) -> list[str | Path]:
        options = ("-o", "--report", "--preview", "--confidence")
        return [word for pair in zip(options, files(name), strict=True) for word in pair]

    def run(*words: str | Path) -> None:
        assert command_line.main(["segment", *map(str, words)]) == 0, capsys.readouterr().err

    run(*asked, *outputs("local"), "-m", "tiny", "--device", "cpu")
    shown = capsys.readouterr().out
    run(*asked, *outputs("remote"), "--server", server.url, "--token-file", server.file)
    told = capsys.readouterr().out
    table = shown.partition("Wrote")[0]
    assert "liver" in table
    assert told.startswith(table)
    for one, other in zip(files("local"), files("remote"), strict=True):
        if one.suffix != ".json":
            assert one.read_bytes() == other.read_bytes(), one.name
    reports = [read_json(files(name)[1]) for name in ("local", "remote")]
    assert reports[0]["findings"] == reports[1]["findings"]
    assert reports[0]["input"] == reports[1]["input"]


def test_the_command_line_needs_no_torch_for_a_server(repository: Path) -> None:
    script = (
        "import sys\nfrom MedicalSAM3Lib.cli import main\n"
        "from MedicalSAM3Lib.demo import sample_path\n"
        "assert main(['segment', str(sample_path()), '-c', 'liver', '-o', 'x.nii', '--server', 'ftp://x']) == 3\n"
        "import MedicalSAM3Lib.result_files\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--server", "http://127.0.0.1:9"], "connection failed"),
        (["--server", "ftp://x"], "address"),
        (["--token-file", "x"], "--server only"),
    ],
)
def test_the_command_line_says_what_is_wrong_with_a_server(
    tmp_path: Path, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from MedicalSAM3Lib import client_http

    monkeypatch.setattr(client_http, "FIRST_PAUSE_S", 0.0)
    output = str(tmp_path / "x.seg.nrrd")
    code = command_line.main(["segment", str(sample_path()), "-c", "liver", "-o", output, *words])
    assert code in (2, 3)
    assert said in capsys.readouterr().err


def test_many_clients_take_turns(server: Live, volume_id: str) -> None:
    states: list[str] = []

    def ask() -> None:
        own = server.client()
        states.append(own.wait(own.submit(volume_id, ["liver"], EXACT)["job_id"])["state"])

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states == ["done"] * 6
