"""What the server refuses: an HTTP status, a code for programs and a sentence for people."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException

from MedicalSAM3Lib.errors import MedicalSAM3Error

LONGEST_MESSAGE = 500

STATUS_OF_CODE = {"too_large": 413, "disk_full": 507, "output": 507}
"""HTTP statuses of errors of the library; what was sent cannot be processed (422) for all others."""


class Refused(HTTPException):
    """Ends a request with an error that the client can act on.

    Attributes:
        status: HTTP status, 4xx or 5xx.
        code: snake_case, stable.
        message: One sentence, without anything of a patient.
        more: Further fields of the reply.
    """

    def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
        super().__init__(status, message)
        self.status, self.code, self.message, self.more = status, code, message, more

    def body(self) -> dict[str, Any]:
        """The reply."""
        return {"code": self.code, "message": one_line(self.message), **self.more}


def refusal_of(error: MedicalSAM3Error) -> Refused:
    """The refusal that says what an error of the library says."""
    return Refused(STATUS_OF_CODE.get(error.code, 422), error.code, str(error))


def one_line(text: str) -> str:
    """A text as it may stand in a reply: one line of bounded length that every encoder takes."""
    line = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    return line if len(line) <= LONGEST_MESSAGE else line[: LONGEST_MESSAGE - 1] + "…"


def unknown(what: str) -> Refused:
    """There is no such thing, or it belongs to another client: the two cannot be told apart."""
    return Refused(404, what, f"Expected a {what} of yours, there is none of that name; it may have been removed.")
