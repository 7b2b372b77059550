"""Settings from flags, environment and file, and the tokens: read once, compared in constant time, never shown."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from MedicalSAM3Lib.errors import SettingsError
from MedicalSAM3Lib.server_settings import is_loopback, load_settings, make_server_settings
from MedicalSAM3Lib.tokens import Token, find_token
from Testing.server.server_world import OTHER_SECRET, SECRET


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def test_flags_stand_before_environment_before_file_before_defaults(tmp_path: Path) -> None:
    file = written(tmp_path, "server.toml", 'port = 1\nqueue = 2\nconcepts = 3\nallow_hosts = ["a", "b"]\n')
    environ = {
        "MEDSAM3_SERVER_PORT": "4",
        "MEDSAM3_SERVER_QUEUE": "5",
        "MEDSAM3_SERVER_ALLOW_ORIGINS": "http://x, http://y",
    }
    settings = load_settings(file, {"port": 6, "queue": None}, environ)
    assert (settings.port, settings.queue, settings.concepts, settings.voxels) == (6, 5, 3, 1 << 29)
    assert settings.allow_hosts == ("a", "b")
    assert settings.allow_origins == ("http://x", "http://y")


def test_without_anything_the_server_is_this_machines_own() -> None:
    settings = load_settings(environ={})
    assert (settings.host, settings.tokens, settings.is_local, settings.may_manage_models) == (
        "127.0.0.1",
        (),
        True,
        True,
    )
    assert settings.warnings() == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "gpu.example.org", "127.0.0.1.evil.example"])
def test_beyond_this_machine_a_token_is_needed(host: str) -> None:
    with pytest.raises(SettingsError, match="expected a token"):
        load_settings(flags={"host": host}, environ={})
    settings = load_settings(flags={"host": host}, environ={"MEDSAM3_SERVER_TOKEN": SECRET})
    assert not settings.may_manage_models
    assert "HTTPS" in settings.warnings()[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "[::1]", "localhost"])
def test_addresses_of_this_machine(host: str) -> None:
    assert is_loopback(host)


def test_with_tls_there_is_nothing_to_warn_of(tmp_path: Path) -> None:
    flags = {"host": "0.0.0.0", "tls_certificate": tmp_path / "c", "tls_key": tmp_path / "k"}
    assert load_settings(flags=flags, environ={"MEDSAM3_SERVER_TOKEN": SECRET}).warnings() == ()
    with pytest.raises(SettingsError, match="together"):
        make_server_settings(tls_key=tmp_path / "k")


@pytest.mark.parametrize(
    "values", [{"port": 70000}, {"port": "x"}, {"nonsense": 1}, {"queue": 0}, {"allow_origins": ["evil"]},
               {"allow_origins": ["https://x/"]}]
)  # fmt: skip
def test_a_setting_that_cannot_be_used_is_named(values: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        load_settings(flags=values, environ={})


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not TOML"):
        load_settings(written(tmp_path, "x.toml", "port ="), environ={})
    with pytest.raises(SettingsError, match="settings file"):
        load_settings(tmp_path / "missing.toml", environ={})


def test_a_token_file_names_clients_and_their_last_day(tmp_path: Path) -> None:
    text = f"# who may\n\nward-3 {SECRET}\nresearch {OTHER_SECRET} 2030-01-31\n"
    settings = load_settings(flags={"token_file": written(tmp_path, "tokens", text)}, environ={})
    assert [token.name for token in settings.tokens] == ["ward-3", "research"]
    assert settings.tokens[1].expires == datetime(2030, 1, 31, tzinfo=timezone.utc)
    assert find_token(settings.tokens, SECRET) is settings.tokens[0]
    assert find_token(settings.tokens, OTHER_SECRET) is settings.tokens[1]
    for wrong in ("", SECRET + "x", SECRET[:-1], SECRET.upper(), "ä" * 20, "\ud800"):
        assert find_token(settings.tokens, wrong) is None


def test_no_token_is_in_what_is_printed_of_the_settings() -> None:
    settings = load_settings(environ={"MEDSAM3_SERVER_TOKEN": SECRET})
    assert SECRET not in repr(settings) + repr(settings.tokens) + str(settings.model_dump())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has none"),
        ("one\n", "1 words"),
        ("a b c d\n", "4 words"),
        ("a short\n", "16 characters"),
        (f"A/b {SECRET}\n", "name"),
        (f"a {SECRET} tomorrow\n", "a date"),
        (f"a {SECRET}\na {OTHER_SECRET}\n", "once"),
    ],
)
def test_a_token_file_with_a_fault_is_refused_without_showing_it(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings(flags={"token_file": written(tmp_path, "tokens", text)}, environ={})
    assert SECRET not in str(caught.value)


def test_a_token_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, "tokens", f"a {SECRET}\n")
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        load_settings(flags={"token_file": file}, environ={})
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(flags={"token_file": tmp_path / "missing"}, environ={})


def test_an_expiry_without_a_zone_is_in_utc() -> None:
    day = datetime(2027, 1, 1) + timedelta(hours=1)
    assert Token.of("a", SECRET, day).expires == day.replace(tzinfo=timezone.utc)
