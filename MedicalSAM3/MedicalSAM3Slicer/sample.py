"""The project's sample CT among Slicer's sample data."""

from __future__ import annotations

NAME = "MedicalSAM3CTUpperAbdomen"
FILE = "ct_upper_abdomen.nii.gz"
SHA256 = "73d2b1b70b284376dc2db8459a720ac4689f54d0a802fb807d9ba704545c61e0"
URL = "https://raw.githubusercontent.com/OWNER/SlicerMedicalSAM3/main/Resources/samples/" + FILE


def address() -> str:
    """Where the sample is: the extension's own copy, or else the repository."""
    from MedicalSAM3Lib.resources import ResourceError, resource

    try:
        return resource("samples", FILE).as_uri()
    except ResourceError:
        return URL


def register() -> None:
    """Add the sample to Slicer's Sample Data module; called once the application has started."""
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="MedicalSAM3",
        sampleName=NAME,
        uris=address(),
        fileNames=FILE,
        nodeNames="CT upper abdomen",
        checksums="SHA256:" + SHA256,
        thumbnailFileName=None,
    )
