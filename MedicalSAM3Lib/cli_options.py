"""The options of ``medsam3 segment``, each with its help, and the small texts that they are written in.

Whether a value is allowed is decided in one place, ``config.SegmentSettings``; here only its spelling is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from MedicalSAM3Lib.errors import SettingsError

FILES, RUN, RESULT, SERVER = "Files", "How to run", "What counts as found", "On a server"

InputPath = Annotated[
    Path,
    typer.Argument(
        metavar="INPUT", help="NIfTI, NRRD or MHA file, folder with a DICOM series, or PNG, JPEG, TIFF, DICOM image."
    ),
]
Concepts = Annotated[
    list[str] | None,
    typer.Option("--concept", "-c", metavar="TEXT", help="What to segment, in words. Repeat it for more concepts."),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset", metavar="NAME", help="Segment a list of concepts, such as abdomen (medsam3 concepts presets)."
    ),
]
OutputPath = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        rich_help_panel=FILES,
        help="Result: .seg.nrrd, .nii, .nii.gz, or .png for a 2D image; of a DICOM series .seg.dcm (DICOM SEG), "
        ".labelmap.dcm or .rtstruct.dcm. A file of that name is replaced. "
        "Without it: INPUT's name with .seg.nrrd in the current folder, which must not be there yet.",
    ),
]
ReportPath = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", rich_help_panel=FILES, help="Write all findings as JSON.")
]
PreviewPath = Annotated[
    Path | None, typer.Option("--preview", metavar="FILE", rich_help_panel=FILES, help="Draw the findings as a PNG.")
]
SurfacePath = Annotated[
    Path | None,
    typer.Option(
        "--surface",
        metavar="FILE",
        rich_help_panel=FILES,
        help="Surfaces in patient coordinates: .stl (one file a segment), .obj, .vtp (mm, LPS) or .glb (metres, Y up). "
        "Needs the extra 'surface'.",
    ),
]
Series = Annotated[
    str | None,
    typer.Option(
        "--series",
        metavar="SERIES",
        rich_help_panel=FILES,
        help="Which series of a folder that holds several: its number (4) or its place in the list (#1).",
    ),
]
Frame = Annotated[
    int | None,
    typer.Option(
        "--frame", metavar="N", rich_help_panel=FILES, help="Which frame of a 4D image or page of a TIFF, from 0."
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        "--server", metavar="URL", rich_help_panel=SERVER, help="Let a server do it, such as https://gpu-host:8765."
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        rich_help_panel=SERVER,
        help="Its token, or the connection file of a local server; without it MEDSAM3_SERVER_TOKEN.",
    ),
]
Certificate = Annotated[
    Path | None,
    typer.Option(
        "--certificate", metavar="FILE", rich_help_panel=SERVER, help="Certificate (PEM) by which to know the server."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]

ConfidencePath = Annotated[
    Path | None,
    typer.Option(
        "--confidence",
        metavar="FILE",
        rich_help_panel=FILES,
        help="Confidence of each voxel, 0 to 1: .nii.gz or .nrrd.",
    ),
]
Send = Annotated[
    str | None,
    typer.Option(
        "--send",
        metavar="URL",
        rich_help_panel=FILES,
        help="Store the DICOM result in this archive as well (DICOMweb), such as https://archive/dicom-web.",
    ),
]
ModelName = Annotated[
    str,
    typer.Option("--model", "-m", metavar="NAME", rich_help_panel=RUN, help="Name (see: medsam3 models list) or path."),
]
Device = Annotated[
    str, typer.Option("--device", metavar="DEVICE", rich_help_panel=RUN, help="auto, cpu, mps, cuda or cuda:N.")
]
Speed = Annotated[
    str,
    typer.Option(
        "--speed",
        metavar="SPEED",
        rich_help_panel=RUN,
        help="exact (fp32), balanced, or fast: of thin slices one in 3 mm is looked at, others are interpolated.",
    ),
]
Window = Annotated[
    str,
    typer.Option("--window", metavar="WINDOW", rich_help_panel=RUN, help="auto, soft, lung, bone or LO,HI."),
]
Axis = Annotated[
    str,
    typer.Option(
        "--axis",
        metavar="AXIS",
        rich_help_panel=RUN,
        help="Slices across the patient's 0 = left-right, 1 = front-back, 2 = head-foot; auto chooses one; "
        "all lets the three vote: at least three times the cost, for models that know all three.",
    ),
]
Mode = Annotated[
    str,
    typer.Option(
        "--mode",
        metavar="MODE",
        rich_help_panel=RUN,
        help="detect (each slice by itself), track (objects carried through), fuse (both), or auto: the model's best.",
    ),
]
Slices = Annotated[
    str | None,
    typer.Option("--slices", metavar="A:B", rich_help_panel=RUN, help="Only slices A to B - 1, counted from 0."),
]
Roi = Annotated[
    str | None,
    typer.Option(
        "--roi", metavar="I0,I1,J0,J1,K0,K1", rich_help_panel=RUN, help="Only inside this box of voxels, ends excluded."
    ),
]
MemoryBudget = Annotated[
    float | None,
    typer.Option(
        "--memory-budget",
        metavar="GB",
        rich_help_panel=RUN,
        help="Memory for features, by default 70 % of what is free; the others go to a temporary file.",
    ),
]
Overlap = Annotated[
    str,
    typer.Option(
        "--overlap",
        metavar="RULE",
        rich_help_panel=RESULT,
        help="exclusive (the surer concept wins), nested (but parts and wholes, such as left kidney and kidney, share) "
        "or keep (all share).",
    ),
]
Instances = Annotated[
    bool,
    typer.Option(
        "--instances", rich_help_panel=RESULT, help="Keep the objects of a concept apart, each a segment: 30 lesions."
    ),
]
Verbatim = Annotated[
    bool,
    typer.Option(
        "--verbatim",
        rich_help_panel=RESULT,
        help="Ask with the words as typed, and do not hold 'left' and 'right' to the patient's sides.",
    ),
]
Rule = Annotated[
    str,
    typer.Option("--rule", metavar="RULE", rich_help_panel=RESULT, help="union of confident masks, or the best: top1."),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--presence-threshold",
        metavar="P",
        rich_help_panel=RESULT,
        help="Presence (0 to 1) from which a concept is found, instead of the model's own.",
    ),
]


def asked_concepts(concepts: list[str] | None, preset: str | None) -> list[str]:
    """What is asked for: the concepts of a preset, then those typed.

    Raises:
        PromptError: There is no such preset.
        SettingsError: Nothing was asked for.
    """
    if not concepts and preset is None:
        raise SettingsError("Missing option '--concept': type what to segment, such as -c liver, or --preset abdomen.")
    from MedicalSAM3Lib.presets import preset as find_preset

    return [*(concept.name for concept in (find_preset(preset) if preset else ())), *(concepts or ())]


def parse_numbers(option: str, text: str | None, separator: str, shape: str) -> tuple[int, ...] | None:
    """Read whole numbers such as ``10:20`` or ``0,9,0,9,0,9``; how many there must be is counted in ``shape``.

    Args:
        option: Name of the option, for the message.
        text: What was typed; None when the option was not given.
        separator: What stands between the numbers.
        shape: How the value is written, such as ``A:B``.

    Raises:
        SettingsError: The text is not that many whole numbers.
    """
    if text is None:
        return None
    try:
        numbers = tuple(int(part) for part in text.split(separator))
    except ValueError:
        numbers = ()
    if len(numbers) != len(shape.split(separator)):
        raise SettingsError(f"{option}: expected {shape} in whole numbers, got '{text}'.")
    return numbers
