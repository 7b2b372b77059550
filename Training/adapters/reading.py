"""Read an image or raw labels from any file that a data set may hold.

Pictures and volumes go through ``MedicalSAM3Lib.files.read_volume``; stacks of pages and arrays of NumPy, HDF5
and MATLAB, which carry neither orientation nor size, are read here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.files import read_volume
from MedicalSAM3Lib.images import SUFFIXES as PICTURES
from MedicalSAM3Lib.quiet import quiet
from MedicalSAM3Lib.structures import Volume
from Training.dataset_layouts import ArrayOptions

ARRAYS = (".npy", ".npz", ".h5", ".hdf5", ".mat")
LOSSY = (".jpg", ".jpeg")


def read_image(path: Path, options: ArrayOptions) -> Volume:
    """One image of a data set.

    Args:
        path: A file, or the folder of a DICOM series.
        options: How to understand arrays and stacks.

    Raises:
        InputError: It cannot be read.
    """
    if is_array(path, options):
        return _volume_of(_array(path, options), options, path.stem)
    volume = read_volume(path, frame=options.frame, on_notice=lambda line: None)
    array = volume.array
    if options.slices_are_channels and array.ndim == 3 and len(array) == 3:
        # Three grey pages that are really red, green and blue of one picture.
        return Volume(np.moveaxis(array, 0, -1)[None], np.eye(4), "RGB", is_2d=True, name=volume.name)
    return volume


def read_labels(path: Path, options: ArrayOptions, *, palette: bool) -> Volume:
    """Raw labels: values as stored, grey ``(K, J, I)`` or colour ``(K, J, I, 3)``.

    Args:
        path: A file.
        options: How to understand arrays and stacks.
        palette: Colours of a palette picture are wanted, not the numbers of its palette.

    Raises:
        InputError: It cannot be read.
    """
    if not palette and path.suffix.lower() in (".png", ".gif", ".bmp"):
        numbers = _palette_numbers(path)
        if numbers is not None:
            return Volume(numbers[None].astype(np.float32), np.eye(4), is_2d=True, name=path.stem)
    return read_image(path, options)


def is_array(path: Path, options: ArrayOptions) -> bool:
    """Whether a file holds bare numbers: no orientation, no kind of image."""
    return path.suffix.lower() in ARRAYS or (options.stack and path.suffix.lower() in (".tif", ".tiff"))


def is_picture(path: Path) -> bool:
    """Whether a file is a picture that the library reads as it is."""
    return path.name.lower().endswith(PICTURES)


def open_array(path: Path, key: str) -> np.ndarray:
    """The array of a NumPy, HDF5 or MATLAB file; that of a ``.npy`` file stays on disk until it is used.

    Raises:
        InputError: The file is damaged or holds no array of that name.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return np.asarray(arrays[_chosen(list(arrays), key, path)])
        if suffix == ".mat":
            return _read_mat(path, key)
        return _read_hdf5(path, key)
    except InputError:
        raise
    # Each of these libraries raises types of its own on damaged files.
    except Exception as error:
        raise InputError(f"Expected a complete array file, got one that cannot be read: {path.name}.") from error


def _read_mat(path: Path, key: str) -> np.ndarray:
    from scipy.io import loadmat

    try:
        arrays = loadmat(path)
    except NotImplementedError:
        # MATLAB 7.3 files are HDF5, with the axes in the other order.
        return _read_hdf5(path, key).T
    names = [name for name in arrays if not name.startswith("__")]
    return np.asarray(arrays[_chosen(names, key, path)])


def _read_hdf5(path: Path, key: str) -> np.ndarray:
    import h5py

    with h5py.File(path, "r") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        return np.asarray(file[_chosen(names, key, path)])


def _chosen(names: list[str], key: str, path: Path) -> str:
    if key in names:
        return key
    if not key and len(names) == 1:
        return names[0]
    wanted = f"an array '{key}'" if key else "one array"
    raise InputError(f"Expected {wanted} in {path.name}, got {', '.join(sorted(names)) or 'none'}; name it with key.")


def _array(path: Path, options: ArrayOptions) -> np.ndarray:
    if path.suffix.lower() in ARRAYS:
        return np.asarray(open_array(path, options.key))
    import tifffile

    try:
        with quiet():
            return np.asarray(tifffile.imread(path))
    # tifffile raises many types on damaged files.
    except Exception as error:
        raise InputError(f"Expected a complete stack, got one that cannot be read: {path.name}.") from error


def _volume_of(array: np.ndarray, options: ArrayOptions, name: str) -> Volume:
    """Axes brought into the order slice, row, column (, colour)."""
    colour = array.ndim == len(options.axes) + 1 and array.shape[-1] == 3
    if array.ndim != len(options.axes) + colour or not np.issubdtype(array.dtype, np.number) | (array.dtype == bool):
        raise InputError(f"Expected numbers with the axes '{options.axes}', got an array {array.shape}; set axes.")
    order = [options.axes.index(axis) for axis in "kji" if axis in options.axes]
    array = np.transpose(array, [*order, *([array.ndim - 1] if colour else [])])
    is_2d = "k" not in options.axes
    array = array[None] if is_2d else array
    modality = ("RGB" if colour else "GREY") if is_2d else ""
    return Volume(np.ascontiguousarray(array, np.float32), np.eye(4), modality, is_2d=is_2d, name=name)


def _palette_numbers(path: Path) -> np.ndarray | None:
    """Palette numbers of a picture, None where it has no palette (or cannot be opened: read again, with reasons)."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image) if image.mode == "P" else None
    except (UnidentifiedImageError, OSError):
        return None
