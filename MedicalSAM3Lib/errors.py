"""Every error that this library raises on purpose.

Each message says what was expected, what came and what to do, in one line that can be shown to a
clinician as it stands. It never holds a patient's name, an identifier or image content.

    MedicalSAM3Error
    |-- InputError          the image, the folder or the mask cannot be used      exit code 2
    |   |-- GeometryError   the image's axes cannot be trusted                    exit code 2
    |   |-- ChoiceNeeded    it holds several images, and none was chosen          exit code 2
    |   `-- TooLarge        the image is larger than may be read here             exit code 2
    |-- PromptError         the typed concept cannot be used                      exit code 2
    |-- SettingsError       a setting, or two that contradict each other          exit code 2
    |-- OutputError         the result cannot be written there                    exit code 2
    |-- WeightsError        a checkpoint or a model folder is not what it claims  exit code 3
    |-- RunError            the computation itself failed                         exit code 3
    |   `-- MemoryFull      no memory for this step; ``ladder`` tries a smaller   exit code 3
    |-- ServerError         a server did not do what it was asked to              exit code 3
    |   |-- Unreachable     it does not answer, however often it is asked         exit code 3
    |   |-- Mismatch        it is no server of ours, or of another version        exit code 3
    |   |-- Denied          it wants a token, or another one                      exit code 3
    |   |-- NotThere        it knows no such volume, job or model (any more)      exit code 3
    |   |-- Busy            it takes no more jobs or uploads at present           exit code 3
    |   `-- JobFailed       it took the job, and the job failed                   exit code 3
    `-- Cancelled           the caller asked for the end; not a fault             exit code 130
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class MedicalSAM3Error(Exception):
    """Base of all errors raised on purpose: ``exit_code`` is what the command line returns, ``code`` what the server
    says beside the message."""

    exit_code = 3
    code = "run"


class InputError(MedicalSAM3Error):
    """The input cannot be read or used."""

    exit_code = 2
    code = "input"


class GeometryError(InputError):
    """The axes of the image are sheared, singular or not finite."""

    code = "geometry"


class ChoiceNeeded(InputError):
    """A file or a folder holds several images, and none was chosen."""

    code = "frame"


class SeriesNeeded(ChoiceNeeded):
    """The images are series of a study."""

    code = "series"


class TooLarge(InputError):
    """The image takes more memory than there is, or than this process was told to take."""

    code = "too_large"


class PromptError(MedicalSAM3Error):
    """A concept is empty, too long for the text encoder, or asked for twice."""

    exit_code = 2
    code = "concept"


class SettingsError(MedicalSAM3Error):
    """A setting is out of range, or two settings contradict each other."""

    exit_code = 2
    code = "settings"


class OutputError(MedicalSAM3Error):
    """The result cannot be written where it was asked to be."""

    exit_code = 2
    code = "output"


class NothingFound(OutputError):
    """A format that cannot be empty was asked for, and no concept was found."""

    code = "nothing_found"


class WeightsError(MedicalSAM3Error):
    """A checkpoint or a model folder is damaged, incomplete, or of another kind."""

    code = "weights"


class RunError(MedicalSAM3Error):
    """The computation failed after its input had been accepted."""


class MemoryFull(RunError):
    """There is no memory for a step as it was tried.

    Attributes:
        is_main: True where main memory is full, False where it is that of an accelerator.
    """

    code = "memory"

    def __init__(self, message: str, *, is_main: bool) -> None:
        super().__init__(message)
        self.is_main = is_main


class Cancelled(MedicalSAM3Error):
    """Raised by a progress callable to stop a run; nothing is left behind."""

    exit_code = 130
    code = "cancelled"


class ServerError(MedicalSAM3Error):
    """A server refused or failed.

    Attributes:
        code: What the server called it.
        status: HTTP status, or None where there was no answer.
        details: All that the server said, by name.
        retry_after_s: Seconds after which it may be asked again.
    """

    code = "server"

    def __init__(
        self,
        message: str,
        code: str = "",
        status: int | None = None,
        details: Mapping[str, Any] | None = None,
        retry_after_s: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.code, self.status = code or type(self).code, status
        self.details, self.retry_after_s = dict(details or {}), retry_after_s


class Unreachable(ServerError):
    """The server does not answer."""

    code = "unreachable"


class Mismatch(ServerError):
    """What answers is no server of this kind, or one whose version does not fit."""

    code = "mismatch"


class Denied(ServerError):
    """A token is missing, wrong or expired, or this client may not do that."""

    code = "denied"


class NotThere(ServerError):
    """The server knows no such thing, or it belongs to another client."""

    code = "not_there"


class Busy(ServerError):
    """The server's queue is full."""

    code = "busy"


class JobFailed(ServerError):
    """A job ended without a result."""

    code = "job"
