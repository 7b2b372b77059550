"""Find the files that travel with the library: models, vocabulary, tokenizer, samples.

They lie in one folder, ``Resources/``, which is in another place in each way of installing:

    wheel               MedicalSAM3Lib/Resources/           inside the package
    checkout            MedicalSAM3Lib/../Resources/        beside the package
    Slicer extension    qt-scripted-modules/Resources/      beside the package, among the module's icons
"""

from __future__ import annotations

from pathlib import Path

from MedicalSAM3Lib.errors import MedicalSAM3Error

MARKER = "concepts.csv"
"""A folder called ``Resources`` is ours when it holds this; Slicer keeps icons under the same name."""


class ResourceError(MedicalSAM3Error):
    """A file that belongs to the library is not there: the installation is incomplete."""


def resource(*parts: str) -> Path:
    """Path of a file or folder under ``Resources/``, by its parts: ``resource("models", "tiny")``.

    Raises:
        ResourceError: The folder or the entry is missing, or the parts lead out of the folder.
    """
    root = find_root(Path(__file__).resolve().parent)
    path = root.joinpath(*parts)
    if not path.resolve().is_relative_to(root.resolve()):
        raise ResourceError(f"Expected a path inside Resources/, got '{'/'.join(parts)}'.")
    if not path.exists():
        raise ResourceError(f"Expected Resources/{'/'.join(parts)}, found nothing there; install medical-sam3 again.")
    return path


def find_root(package: Path) -> Path:
    """The ``Resources/`` folder that belongs to a package folder, wherever it was installed.

    Raises:
        ResourceError: Neither place holds it.
    """
    for candidate in (package / "Resources", package.parent / "Resources"):
        if (candidate / MARKER).is_file():
            return candidate
    raise ResourceError(f"Expected Resources/{MARKER} in or beside {package.name}/; install medical-sam3 again.")
