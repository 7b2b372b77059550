"""What is known about one data set: a YAML file of ``Resources/datasets`` or of a researcher, checked on reading.

load_spec("kvasir_seg")            one of the published data sets, or of the ready layouts
load_spec_file(Path("mine.yaml"))  one's own; ``extends: nnunet_raw`` takes a ready layout and changes it
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml  # type: ignore[import-untyped]
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from MedicalSAM3Lib.errors import SettingsError
from MedicalSAM3Lib.faults import fault_line
from MedicalSAM3Lib.resources import resource
from Training.dataset_layouts import Frozen, Layout

ANY_LABEL = "*"
"""Key of the dictionary for every label that it does not name."""

INSIDE = "inside"
"""The label of a mask that only knows inside and outside."""

Names = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]


class Counts(Frozen):
    """Numbers of the paper (Table 1), or of the publisher.

    Attributes:
        images, annotations: None where nobody published the number.
        counting: What one annotation is: a mask (of a concept in an image), a connected piece of it, or a
            numbered object.
        note: Why ours may differ.
    """

    images: int | None = Field(default=None, ge=1)
    annotations: int | None = Field(default=None, ge=1)
    counting: Literal["masks", "pieces", "objects"] = "masks"
    note: str = ""


class Source(Frozen):
    """Where the layout was looked up.

    Attributes:
        kind: "looked up" in a public source, or "inferred" from names and descriptions.
        cite: What was read: address, or repository and path.
        reported: What users report to be irregular in the files.
    """

    kind: Literal["looked up", "inferred"]
    cite: str = Field(min_length=1)
    reported: tuple[str, ...] = ()


class States(Frozen):
    """What the absence of a label means.

    Attributes:
        not_shown: A concept of the dictionary that a label file does not show: looked for and absent, or unknown.
        no_mask: An image without a label file: left out (and counted), or looked at and empty.
        empty_slices: A slice of a volume without a concept that other slices of it show.
        least_pixels: A concept that covers fewer pixels of a picture or slice is neither shown nor absent there:
            some masks hold stray pixels of labels that nobody meant.
        absent: Concepts that no image of the data set shows, whatever its dictionary says.
    """

    not_shown: Literal["absent", "unknown"] = "absent"
    no_mask: Literal["left out", "absent"] = "left out"
    empty_slices: Literal["absent", "unknown"] = "absent"
    least_pixels: int = Field(default=1, ge=1)
    absent: Names = ()


class PatientTable(Frozen):
    """A table that says whose image it is.

    Attributes:
        table: Pattern of the CSV file; the patient is unknown where it is missing.
        key: Column that names the image, as ``image`` spells it.
        image: What of an image's path the column holds, a template of placeholders.
        patient: Column with the patient.
        delimiter: Between columns.
    """

    table: str
    key: str
    image: str
    patient: str
    delimiter: str = ","


class DatasetSpec(Frozen):
    """One data set.

    Attributes:
        name: A file name, lower case.
        title: As its authors call it.
        role: training (Table 1), external (Table 3: all of it is unseen), own.
        group: Kind of imaging, as Table 1 calls it.
        modality: DICOM code of volumes; pictures are "RGB" or "GREY", which is all that inference sees of them.
        home, licence, terms, get: Where it lives, what it allows, and how it is obtained.
        counts: Published numbers.
        source: Where the layout is described.
        layouts: Tried in order; the first that finds an image is used.
        labels: Label (as text: "1", "#ff0000", a name, "inside" for a binary mask) to one concept name, or several;
            "*" is every other label, none at all takes the names that the data set gives.
        ignored: Labels that are no concept: background, regions nobody looked at.
        states: What the absence of a label means.
        patient: Template of placeholders, or a table; None where nobody knows whose image it is.
        copies: Whether images count whose files equal an earlier one byte for byte; kept, they share its split.
    """

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    title: str = Field(min_length=1)
    role: Literal["training", "external", "own"] = "own"
    group: str = ""
    modality: str = ""
    home: str = ""
    licence: str = Field(min_length=1)
    terms: str = ""
    get: str = ""
    counts: Counts = Counts()
    source: Source | None = None
    layouts: tuple[Layout, ...] = Field(min_length=1)
    labels: dict[str, Names] = Field(default_factory=dict)
    ignored: Names = ()
    states: States = States()
    patient: str | PatientTable | None = None
    copies: Literal["kept", "left out"] = "kept"

    @model_validator(mode="before")
    @classmethod
    def _labels_are_text(cls, values: Any) -> Any:
        """YAML reads 1 as a number; every label is text here."""
        if isinstance(values, dict):
            values = dict(values)
            if isinstance(values.get("labels"), dict):
                values["labels"] = {str(key): names for key, names in values["labels"].items()}
            if isinstance(values.get("ignored"), list):
                values["ignored"] = [str(label) for label in values["ignored"]]
        return values

    @model_validator(mode="after")
    def _published_is_documented(self) -> DatasetSpec:
        if self.role != "own" and not (self.home and self.terms and self.get and self.source and self.labels):
            raise ValueError("expected home, terms, get, source and labels of a published data set")
        both = set(self.labels) & set(self.ignored)
        if both:
            raise ValueError(f"expected each label once, got {', '.join(sorted(both))} in labels and ignored")
        ids: dict[str, str] = {}
        for name in self.concepts():
            other = ids.setdefault(concept_id(name), name)
            if other != name:
                raise ValueError(f"expected one name for a concept, got '{other}' and '{name}', which mean the same")
        return self

    def concepts_of(self, label: str) -> tuple[str, ...] | None:
        """Concept names of a label; () for one that is ignored, None for one that the dictionary does not know.

        Without a dictionary a label is its own concept, spelt with spaces, if it is a name and no number.
        """
        if label in self.ignored:
            return ()
        if not self.labels:
            is_name = any(character.isalpha() for character in label) and label != INSIDE and label[0] != "#"
            return (label.replace("_", " ").strip(),) if is_name else None
        return self.labels.get(label, self.labels.get(ANY_LABEL))

    def concepts(self) -> tuple[str, ...]:
        """All concept names of the dictionary, each once, in its order."""
        return tuple(dict.fromkeys(name for names in self.labels.values() for name in names))


def concept_id(name: str) -> str:
    """The id of a concept name: that of the vocabulary, else the words joined."""
    from MedicalSAM3Lib.concepts import find_concept

    concept = find_concept(name)
    return concept.concept_id if concept else "_".join(name.lower().replace("-", " ").split())


def published() -> tuple[str, ...]:
    """Names of all published data sets, sorted."""
    return tuple(sorted(path.stem for path in resource("datasets").glob("*.yaml")))


def ready_layouts() -> tuple[str, ...]:
    """Names of the layouts that one's own data may have, sorted."""
    return tuple(sorted(path.stem for path in resource("datasets", "ready").glob("*.yaml")))


def load_spec(name: str) -> DatasetSpec:
    """A published data set or a ready layout by name.

    Raises:
        SettingsError: There is none of that name, or its file is wrong.
    """
    for folder, names in ((("datasets",), published()), (("datasets", "ready"), ready_layouts())):
        if name in names:
            return load_spec_file(resource(*folder, f"{name}.yaml"))
    known = ", ".join((*published(), *ready_layouts()))
    raise SettingsError(f"Expected the name of a data set, got '{name}'; known are {known}. Or use --yaml.")


def load_spec_file(path: Path) -> DatasetSpec:
    """A data set as a YAML file describes it.

    Raises:
        SettingsError: The file cannot be read or is wrong; the message names the key.
    """
    values = _read(path)
    if "extends" in values:
        name = str(values.pop("extends"))
        if name not in ready_layouts():
            known = ", ".join(ready_layouts())
            raise SettingsError(f"Expected extends: one of {known} in {path.name}, got '{name}'.")
        values = {**_read(resource("datasets", "ready", f"{name}.yaml")), **values}
    try:
        return DatasetSpec.model_validate(values)
    except ValidationError as error:
        line = fault_line(error.errors()[0], "file")
        raise SettingsError(f"{path.name}: {line} See Resources/datasets for examples.") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"Expected a YAML file that describes a data set, cannot read {path.name}.") from error
    if not isinstance(values, Mapping):
        raise SettingsError(f"Expected a YAML file with keys and values, got {type(values).__name__}: {path.name}.")
    return dict(values)
