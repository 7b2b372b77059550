"""The model folder: everything that a run needs, in one place, with a checksum of each file.

    config.json         sizes, as ``transformers`` writes them, and our name, notice and trained phrases
    model.safetensors   weights under the names of ``transformers``
    vocab.json, merges.txt              tokenizer
    preprocess.json, presence.json      how slices are made, when a concept counts as found
    README.md           model card
    SHA256SUMS          of all of the above

It is written whole or not at all, and loaded strictly.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from MedicalSAM3Lib.architecture import CONFIG_FILE, architecture_of, from_config, read_json, to_config
from MedicalSAM3Lib.atomic import require_space, swap_folders
from MedicalSAM3Lib.errors import OutputError, WeightsError
from MedicalSAM3Lib.faults import fault_line
from MedicalSAM3Lib.text import TOKENIZER_FILES, Tokenizer, load_tokenizer
from MedicalSAM3Lib.trained_on import TrainedOn

if TYPE_CHECKING:
    from MedicalSAM3Lib.model import MedicalSam3
    from MedicalSAM3Lib.preprocess import PreprocessSpec
    from MedicalSAM3Lib.presence import PresenceSpec

WEIGHTS_FILE = "model.safetensors"
PREPROCESS_FILE = "preprocess.json"
PRESENCE_FILE = "presence.json"
CARD_FILE = "README.md"
SUMS_FILE = "SHA256SUMS"
MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE, *TOKENIZER_FILES, PREPROCESS_FILE, PRESENCE_FILE, CARD_FILE)

_OURS = "medical_sam3"  # our own block in config.json; transformers keeps what it does not know


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to run, with all that belongs to it.

    Attributes:
        model: fp32, in evaluation mode.
        tokenizer: Phrases to ids.
        preprocess: How a slice becomes the model's input.
        presence: Calibration of "found".
        name: Short name for reports.
        weights_hash: SHA-256 of the weights file, hexadecimal.
        is_demonstration: True for a model that must not be used for more than a demonstration.
        notice: Text to show beside every result, or "".
        card: The model card.
        phrases: Concept id to the phrases that it was trained on, the most frequent first; empty where that is not
            recorded.
        trained_on: Kinds of images that training showed.
    """

    model: MedicalSam3
    tokenizer: Tokenizer
    preprocess: PreprocessSpec
    presence: PresenceSpec
    name: str
    weights_hash: str
    is_demonstration: bool
    notice: str
    card: Path
    phrases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    trained_on: TrainedOn = TrainedOn()  # noqa: RUF009 - frozen, so shared without harm


def save_model_folder(
    folder: Path | str,
    model: MedicalSam3,
    tokenizer_folder: Path | str,
    preprocess: Mapping[str, Any],
    presence: Mapping[str, Any],
    card: str,
    dtype: Literal["float16", "bfloat16", "float32"] = "float16",
    *,
    name: str | None = None,
    demonstration_notice: str = "",
    notice: str = "",
    phrases: Mapping[str, Sequence[str]] | None = None,
    trained_on: TrainedOn | None = None,
) -> None:
    """Write a model folder; it appears whole or not at all, and replaces an older one.

    Args:
        folder: Where to write; its last part names the model unless ``name`` does.
        model: Its weights are rounded to ``dtype``.
        tokenizer_folder: Folder with ``vocab.json`` and ``merges.txt``.
        preprocess, presence: Content of ``preprocess.json`` and ``presence.json``.
        card: Model card, Markdown.
        dtype: Number format of the weights in the file.
        name: Short name of the model.
        demonstration_notice: Not empty for a demonstration model; shown beside every result.
        notice: Shown beside every result of any other model.
        phrases: Concept id to the phrases that it was trained on, the most frequent first.
        trained_on: Kinds of images that training showed.

    Raises:
        WeightsError: A weight is not finite in ``dtype``, or a tokenizer file is missing.
        OutputError: The folder cannot be written.
    """
    from safetensors import SafetensorError

    folder = Path(folder).absolute()
    shown = demonstration_notice or notice
    ours = {"name": name or folder.name, "demonstration": bool(demonstration_notice), "notice": shown}
    config = {**to_config(architecture_of(model)), _OURS: {**ours, **_training(phrases or {}, trained_on)}}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            for part, content in ((CONFIG_FILE, config), (PREPROCESS_FILE, preprocess), (PRESENCE_FILE, presence)):
                (new / part).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            (new / CARD_FILE).write_text(card, encoding="utf-8")
            _copy_tokenizer(Path(tokenizer_folder), new)
            _save_weights(model, new / WEIGHTS_FILE, dtype)
            write_sums(new)
            swap_folders(new, folder, Path(temporary) / "old")
    except (OSError, SafetensorError) as error:
        reason = ((error.strerror if isinstance(error, OSError) else None) or "the writer failed").lower()
        raise OutputError(
            f"Expected to write the model folder '{folder.name}', but {reason}; make room or choose another place."
        ) from error


def load_model_folder(folder: Path | str) -> LoadedModel:
    """Load a model folder strictly, on the CPU.

    Raises:
        WeightsError: A file is missing, changed or of another model; the message names it.
    """
    from MedicalSAM3Lib.tensor_files import read_tensors
    from MedicalSAM3Lib.weights import load_strictly

    folder = Path(folder)
    sums = verify_sums(folder)
    config = read_json(folder / CONFIG_FILE)
    ours = config.pop(_OURS, {})
    model = from_config(config).build_empty()
    load_strictly(model, read_tensors(folder / WEIGHTS_FILE), folder.name)
    preprocess, presence = _read_specs(folder)
    if preprocess.image_size != model.image_size:
        sizes = f"{preprocess.image_size} and {model.image_size}"
        raise WeightsError(f"{PREPROCESS_FILE} and {CONFIG_FILE} of '{folder.name}' differ in image size: {sizes}.")
    return LoadedModel(
        model=model,
        tokenizer=load_tokenizer(folder),
        preprocess=preprocess,
        presence=presence,
        name=str(ours.get("name", folder.name)),
        weights_hash=sums[WEIGHTS_FILE],
        is_demonstration=bool(ours.get("demonstration", False)),
        notice=str(ours.get("notice", "")),
        card=folder / CARD_FILE,
        phrases=_phrases(ours.get("phrases", {}), folder.name),
        trained_on=_trained_on(ours.get("trained_on", {}), folder.name),
    )


def _training(phrases: Mapping[str, Sequence[str]], trained_on: TrainedOn | None) -> dict[str, Any]:
    """What config.json records of the training, where it is known."""
    asked = {"phrases": {concept: list(words) for concept, words in phrases.items()}} if phrases else {}
    return {**asked, **({"trained_on": asdict(trained_on)} if trained_on else {})}


def _phrases(recorded: object, folder: str) -> Mapping[str, Sequence[str]]:
    """The trained phrases as config.json has them, checked: an empty list would leave nothing to ask with."""
    texts = recorded.values() if isinstance(recorded, dict) else [None]
    if not all(isinstance(one, list) and one and all(isinstance(text, str) and text for text in one) for one in texts):
        raise WeightsError(f"Expected lists of phrases by concept in {CONFIG_FILE} of '{folder}'; install it again.")
    return recorded  # type: ignore[return-value]


def _trained_on(recorded: object, folder: str) -> TrainedOn:
    kinds: dict[str, Any] = recorded if isinstance(recorded, dict) else {"": None}
    modalities, axes = kinds.get("modalities", []), kinds.get("axes", [])
    is_sound = set(kinds) <= {"modalities", "axes"} and isinstance(modalities, list) and isinstance(axes, list)
    if not is_sound or not all(isinstance(one, str) for one in modalities) or not all(one in (0, 1, 2) for one in axes):
        raise WeightsError(
            f"Expected modalities and axes as trained_on in {CONFIG_FILE} of '{folder}'; install it again."
        )
    return TrainedOn(tuple(modalities), tuple(axes))


def write_sums(folder: Path, names: Collection[str] = MODEL_FILES, file: str = SUMS_FILE) -> None:
    """Write the SHA-256 of the files of a model folder, or of other ones, into a file beside them."""
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in sorted(names)]
    (folder / file).write_text("".join(lines), encoding="utf-8", newline="\n")


def verify_sums(
    folder: Path,
    names: Collection[str] = MODEL_FILES,
    remedy: str = "install the model again",
    file: str = SUMS_FILE,
) -> dict[str, str]:
    """Check every file of a model folder; return file name to SHA-256.

    Args:
        folder: Where they lie.
        names: Files that must be there.
        remedy: What to do about a damaged one, for the message.
        file: That ``write_sums`` wrote.

    Raises:
        WeightsError: A file is missing, not listed, or not the one that was written.
    """
    sums = listed_sums(folder, names, file)
    for name in names:
        if not (folder / name).is_file():
            raise WeightsError(f"Expected {name} in '{folder.name}', it is missing; {remedy}.")
        if sha256_of(folder / name) != sums[name]:
            raise WeightsError(f"{name} of '{folder.name}' was changed or damaged; {remedy}.")
    return sums


def listed_sums(folder: Path, names: Collection[str] = MODEL_FILES, file: str = SUMS_FILE) -> dict[str, str]:
    """File name to SHA-256, as ``write_sums`` lists them; the files are not looked at.

    Raises:
        WeightsError: There is no list, or it does not name all of these.
    """
    try:
        lines = (folder / file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"Expected a model folder with {file}, '{folder.name}' has none.") from error
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in names:
        if name not in sums:
            raise WeightsError(f"Expected {name} in {file} of '{folder.name}', it is not listed.")
    return sums


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_specs(folder: Path) -> tuple[PreprocessSpec, PresenceSpec]:
    from pydantic import ValidationError

    from MedicalSAM3Lib.preprocess import PreprocessSpec
    from MedicalSAM3Lib.presence import PresenceSpec

    try:
        return (
            PreprocessSpec.model_validate(read_json(folder / PREPROCESS_FILE)),
            PresenceSpec.model_validate(read_json(folder / PRESENCE_FILE)),
        )
    except ValidationError as error:
        line = fault_line(error.errors()[0], "the whole file")
        raise WeightsError(f"{error.title} of '{folder.name}': {line}") from error


def _copy_tokenizer(source: Path, target: Path) -> None:
    load_tokenizer(source)  # refuses what could not be loaded again
    for name in TOKENIZER_FILES:
        shutil.copyfile(source / name, target / name)


def _save_weights(model: MedicalSam3, path: Path, dtype: str) -> None:
    import torch
    from safetensors.torch import save_file

    tensors, width = {}, getattr(torch, dtype).itemsize
    state = model.state_dict()
    require_space(path.parent, sum(width * tensor.numel() for tensor in state.values()), "the weights")
    for key, tensor in state.items():
        rounded = tensor.detach().to("cpu", getattr(torch, dtype), copy=True).contiguous()
        if not torch.isfinite(rounded).all():
            raise WeightsError(
                f"Expected finite weights in {dtype}, '{key}' is not; save it as float32 or train again."
            )
        tensors[key] = rounded
    save_file(tensors, path, metadata={"format": "pt"})
