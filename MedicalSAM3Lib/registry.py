"""Models by name: list, download, import, verify, remove, and load. No torch at import.

Installed models lie in ``$MEDSAM3_HOME/models/NAME``; the bundled one in ``Resources/models``.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from MedicalSAM3Lib.atomic import require_space
from MedicalSAM3Lib.catalogue import NAME_PATTERN, ModelInfo, catalogue
from MedicalSAM3Lib.download import HubTransport, OnBytes, Request, Transport, fetch
from MedicalSAM3Lib.errors import Cancelled, OutputError, SettingsError, WeightsError
from MedicalSAM3Lib.model_folder import LoadedModel, verify_sums
from MedicalSAM3Lib.model_import import convert, is_our_folder, load_any
from MedicalSAM3Lib.resources import ResourceError, resource

if TYPE_CHECKING:
    from MedicalSAM3Lib.architecture import Architecture
    from MedicalSAM3Lib.model_import import Dtype, OnStage

HOME_VARIABLE = "MEDSAM3_HOME"
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class ModelState:
    """A model, and whether it can be used now.

    Attributes:
        name: What is typed.
        info: Its entry in the catalogue; None for one that a user imported.
        folder: Where it is installed, or None.
    """

    name: str
    info: ModelInfo | None
    folder: Path | None


def home() -> Path:
    """Folder of downloads and installed models: ``$MEDSAM3_HOME``, or the system's place for such data."""
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("medical-sam3", appauthor=False))


def list_models() -> tuple[ModelState, ...]:
    """All models of the catalogue, then those that the user imported, by name."""
    known = [ModelState(name, info, find_installed(name)) for name, info in catalogue().items()]
    folders = sorted(path for path in (home() / "models").glob("*") if is_our_folder(path))
    own = [ModelState(path.name, None, path) for path in folders if path.name not in catalogue()]
    return (*known, *own)


def find_installed(name: str) -> Path | None:
    """Folder of an installed or bundled model, or None."""
    _check_name(name)
    info = catalogue().get(name)
    if info is None or info.kind == "download":
        folder = home() / "models" / name
    else:
        try:
            folder = resource("models", name)
        except ResourceError:
            return None
    return folder if is_our_folder(folder) else None


def resolve(name_or_path: str | Path = AUTO) -> Path:
    """Find the folder or file of a model.

    Args:
        name_or_path: "auto" for the best installed model, else the bundled one; a name; or a path.

    Raises:
        WeightsError: The model is not installed; the message says what to do.
        SettingsError: There is no model of that name.
    """
    if name_or_path == AUTO:
        usable = [(state.info.rank, state.folder) for state in list_models() if state.info and state.folder]
        if not usable:
            raise WeightsError("Expected an installed model, there is none; run 'medsam3 models download NAME'.")
        return max(usable)[1]
    path = Path(name_or_path)
    is_name = isinstance(name_or_path, str) and re.fullmatch(NAME_PATTERN, name_or_path) is not None
    folder = find_installed(str(name_or_path)) if is_name else None
    if folder is not None:
        return folder
    if str(name_or_path) and path.exists():
        return path
    if str(name_or_path) in catalogue():
        hint = f"run 'medsam3 models download {name_or_path}'"
        if catalogue()[str(name_or_path)].kind == "bundled":
            hint = "install medical-sam3 again"
        raise WeightsError(f"The model '{name_or_path}' is not installed; {hint}.")
    names = ", ".join(state.name for state in list_models())
    raise SettingsError(f"model: expected a path or one of {names}, got '{name_or_path}'.")


def load_model(name_or_path: str | Path = AUTO, device: str = "auto", speed: str = "balanced") -> LoadedModel:
    """Load a model and put it on its device, or leave it in main memory where it does not fit.

    Args:
        name_or_path: See ``resolve``.
        device, speed: See ``SegmentSettings``.

    Raises:
        WeightsError: It is not installed, damaged, or no checkpoint of SAM3.
        SettingsError: The device is not there.
    """
    path = resolve(name_or_path)
    from MedicalSAM3Lib.config import make_settings
    from MedicalSAM3Lib.ladder import place_if_it_fits
    from MedicalSAM3Lib.runtime import pick_runtime

    runtime = pick_runtime(make_settings(device=device, speed=speed))
    loaded = load_any(path)
    place_if_it_fits(loaded.model, runtime)
    return loaded


def download_model(
    name: str,
    accept_licence: Callable[[ModelInfo], bool],
    *,
    token: str | None = None,
    transport: Transport | None = None,
    on_bytes: OnBytes | None = None,
    architecture: Architecture | None = None,
) -> Path:
    """Download a model of the catalogue and install it; return its folder.

    A model without a tracker gets that of its base, if the base is installed at that time.

    Args:
        name: In the catalogue.
        accept_licence: Called before the first byte with what to show; False ends it.
        token: Of a Hugging Face account; by default that of ``HF_TOKEN`` or ``hf auth login``.
        transport: The network; the Hugging Face hub unless a test plays another.
        on_bytes: Progress.
        architecture: Sizes, if not those of the published SAM3.

    Raises:
        Cancelled: The licence was not accepted.
        WeightsError, OutputError, RunError: As ``download.fetch`` and ``model_import.convert`` say.
    """
    info = catalogue().get(name)
    if info is None or info.kind != "download":
        names = ", ".join(known for known, entry in catalogue().items() if entry.kind == "download")
        raise SettingsError(f"Expected a model to download ({names}), got '{name}'.")
    if not accept_licence(info):
        raise Cancelled(f"The licence of '{name}' was not accepted; nothing was downloaded.")
    folder = home() / "downloads" / name
    requests = [Request(info.repo, file.name, info.revision, file.sha256, token) for file in info.files]
    paths = [fetch(request, folder, transport or HubTransport(), on_bytes) for request in requests]
    target = home() / "models" / name
    convert(
        paths[0],
        target,
        base=find_installed(info.base) if info.base else None,
        architecture=architecture,
        licence=f"{info.licence.name}, {info.licence.url}",
    )
    if not info.keep_files:
        shutil.rmtree(folder)
    return target


def import_model(
    source: Path | str,
    name: str,
    *,
    base: str | Path | None = None,
    dtype: Dtype = "float32",
    architecture: Architecture | None = None,
    licence: str = "",
    on_stage: OnStage = lambda stage: None,
) -> Path:
    """Install a checkpoint that the user has; return its folder.

    Args:
        source: Any layout that ``weights.read_checkpoint`` reads, or a model folder of ours.
        name: Under which it is installed: lower case letters, digits, ".", "_" and "-".
        base: Name or path of a model whose tracker is taken if the source has none.
        dtype: Number format of the installed weights.
        architecture: Sizes of a bare file, if not those of the published SAM3.
        licence: Of the weights, for the model card; a model folder of ours has one.
        on_stage: Progress.

    Raises:
        SettingsError: The name cannot be used.
        WeightsError: The source is not a checkpoint of SAM3, or it is incomplete.
        OutputError: The disk is too small or not writable.
    """
    _check_name(name)
    if name in catalogue() or name == AUTO:
        raise SettingsError(f"The name '{name}' is taken by the catalogue; choose another.")
    source, target = Path(source), home() / "models" / name
    if is_our_folder(source):
        on_stage("write")
        _copy_folder(source, target)
    else:
        tracker = resolve(base) if base else None
        convert(
            source, target, base=tracker, architecture=architecture, licence=licence, dtype=dtype, on_stage=on_stage
        )
    return target


def verify_model(name_or_path: str | Path) -> dict[str, str]:
    """Check every file of an installed model; return file name to SHA-256.

    Raises:
        WeightsError: It is not installed, or a file is missing or was changed.
    """
    return verify_sums(resolve(name_or_path))


def remove_model(name: str) -> Path:
    """Remove an installed model and what was downloaded for it; return the folder that it was in.

    Raises:
        WeightsError: It is not installed, or it is part of this software.
        OutputError: The folder cannot be removed.
    """
    folder = find_installed(name)
    if folder is None:
        raise WeightsError(f"The model '{name}' is not installed; 'medsam3 models list' shows what is.")
    if name in catalogue() and catalogue()[name].kind == "bundled":
        raise WeightsError(f"'{name}' is part of this software and cannot be removed.")
    # Renamed first, so that an interrupted removal leaves no half of a model under its name.
    doomed = folder.with_name(f".{name}-{uuid.uuid4().hex[:8]}")
    try:
        os.replace(folder, doomed)
        shutil.rmtree(doomed)
        shutil.rmtree(home() / "downloads" / name, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"Expected to remove '{name}', the folder refused: {error.strerror}.") from error
    return folder


def _copy_folder(source: Path, target: Path) -> None:
    verify_sums(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    require_space(target.parent, sum(path.stat().st_size for path in source.iterdir()), target.name)
    try:
        shutil.copytree(source, new)
        if target.exists():
            shutil.rmtree(target)
        os.replace(new, target)
    except OSError as error:
        raise OutputError(f"Expected to write '{target.name}', the folder refused: {error.strerror}.") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _check_name(name: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise SettingsError(f"Expected a name of lower case letters, digits, '.', '_' and '-', got '{name[:64]}'.")
