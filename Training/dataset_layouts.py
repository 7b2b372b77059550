"""How the files of a data set lie on disk: one pydantic model for each family of layouts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from Training.adapters.patterns import compile_pattern

Form = Literal["binary", "labels", "colours", "instances", "outline", "segments"]


class Frozen(BaseModel):
    """Base: unknown keys are errors, values do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ArrayOptions(Frozen):
    """How to understand files that hold bare arrays.

    Attributes:
        key: Name of the array in a file that holds several.
        axes: Order of the axes: k slice, j row, i column ("jik" for most MATLAB volumes, "ji" for pictures).
        stack: Pages of a TIFF are slices of one volume.
        slices_are_channels: Three slices of a volume are the red, green and blue of one picture.
        frame: Which image of a 4D file; None where it holds one.
    """

    key: str = ""
    frame: int | None = Field(default=None, ge=0)
    axes: str = Field(default="kji", pattern="^(?:kji|kij|jki|jik|ikj|ijk|ji|ij)$")
    stack: bool = False
    slices_are_channels: bool = False


def _as_patterns(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _checked(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for text in patterns:
        compile_pattern(text)
    return patterns


Patterns = Annotated[tuple[str, ...], BeforeValidator(_as_patterns), AfterValidator(_checked)]
"""One path pattern or several (``Training/adapters/patterns.py``)."""


class PairsLayout(Frozen):
    """An image, and one or more files with its labels.

    Attributes:
        image: Patterns of images. A file that an image and a mask pattern fit goes to the one with more fixed
            characters.
        mask: Patterns of label files. Placeholders that an image pattern has too must agree; all files that do
            belong to the image. ``{label}`` names the label that a whole file stands for, ``{split}`` the part of
            the data set that its publisher put the image into.
        negative: Patterns of images that somebody looked at and found to show none of the concepts.
        form: binary (inside or not), labels (a number each), colours, instances (a number per object), outline
            (a closed curve, filled as an ellipse), segments (a ``.seg.nrrd`` that names its labels).
        soft: Grey values between the two of a binary mask are borders that were smoothed.
        folders: Images are folders with a DICOM series; the pattern names their files.
        image_array, mask_array: How to understand arrays.
    """

    kind: Literal["pairs"]
    image: Patterns
    mask: Patterns
    negative: Patterns = ()
    form: Form = "binary"
    soft: bool = False
    folders: bool = False
    image_array: ArrayOptions = ArrayOptions()
    mask_array: ArrayOptions = ArrayOptions()


class NnunetLayout(Frozen):
    """nnU-Net raw and Medical Segmentation Decathlon: ``imagesTr``, ``labelsTr`` and ``dataset.json``.

    Attributes:
        channel: Which image of a case that has several: "case_0000", "case_0001", or frames of a 4D file.
    """

    kind: Literal["nnunet"]
    channel: int = Field(default=0, ge=0)


class CocoLayout(Frozen):
    """COCO JSON: polygons or run lengths, labels by category name.

    Attributes:
        annotations: Patterns of JSON files.
        image: Patterns of images; ``{file_name}`` is what the JSON calls the image, other placeholders must agree.
    """

    kind: Literal["coco"]
    annotations: Patterns
    image: Patterns


class PolygonsLayout(Frozen):
    """Polygons beside the image.

    Attributes:
        mask: Patterns of polygon files, as in ``PairsLayout``.
        form: labelme (JSON), voc (XML with ``polygon``), imagescope (Aperio XML), contour (lines of x and y).
        shapes: Shape types of LabelMe that count; boxes drawn beside a polygon are no second object.
    """

    kind: Literal["polygons"]
    image: Patterns
    mask: Patterns
    negative: Patterns = ()
    form: Literal["labelme", "voc", "imagescope", "contour"]
    shapes: tuple[str, ...] = ("polygon",)


class RunLengthLayout(Frozen):
    """Run lengths in a CSV table.

    Attributes:
        table: Patterns of tables.
        image: Patterns of images with a placeholder ``{id}``, which is what the table calls the image.
        id_column, code_column: Columns; spaces around their names do not count.
        label_column: Column with the label of a row; "" for one label.
        starts: absolute (from the first pixel, the first is 1), relative (from the end of the last run, 0-based).
        order: Pixels run down the columns, or along the rows.
        none: Codes that mean "looked, and found nothing".
    """

    kind: Literal["run_length"]
    table: Patterns
    image: Patterns
    id_column: str
    code_column: str
    label_column: str = ""
    starts: Literal["absolute", "relative"] = "absolute"
    order: Literal["columns", "rows"] = "columns"
    none: tuple[str, ...] = ("", "-1")


class TilesLayout(Frozen):
    """Many pictures in one array (N, H, W, 3), and their masks in another (N, H, W, channels): PanNuke.

    Attributes:
        image, mask: Patterns of ``.npy`` files that belong together.
        ignored_channels: Mask channels that are no label (the background).
    """

    kind: Literal["tiles"]
    image: Patterns
    mask: Patterns
    ignored_channels: tuple[int, ...] = ()


Layout = Annotated[
    PairsLayout | NnunetLayout | CocoLayout | PolygonsLayout | RunLengthLayout | TilesLayout,
    Field(discriminator="kind"),
]
