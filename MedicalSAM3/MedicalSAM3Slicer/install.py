"""What the local engine needs in Slicer's own Python, how large it is, and installing it. Only ever on request.

torch comes from Slicer's PyTorch extension, which knows the graphics card; the rest from the package index, by
``slicer.packaging`` where Slicer has it. Both keep what Slicer carries itself. Nothing is imported before that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import slicer
from slicer.i18n import tr as _

from MedicalSAM3Lib.installed import is_met, package_of

from .task import UserError

TORCH = "torch>=2.6"
REQUIREMENTS = (
    "fastapi>=0.115", "filelock>=3.15", "huggingface-hub>=1.0", "matplotlib>=3.8", "numpy>=1.26", "pillow>=10.3",
    "platformdirs>=4", "prometheus-client>=0.20", "pydantic>=2.7", "pydicom>=3.0", "rich>=13.7", "safetensors>=0.5",
    "scipy>=1.12", "SimpleITK>=2.4", "tifffile>=2024.1", "transformers>=5.20", "typer>=0.15", "uvicorn>=0.30",
)  # fmt: skip
"""Those of the library and of its server (``pyproject.toml``), but for torch."""

CARRIED = ("numpy", "SimpleITK", "torch")
"""What other modules of Slicer rely on, and torch: never replaced by this installation."""

ABOUT_MB = {"torch": 250, "torch with CUDA": 3500, "transformers": 60, "scipy": 110, "matplotlib": 30}
OTHERS_MB = 60
"""Rounded sizes on disk, for the question to the user."""


@dataclass(frozen=True)
class Plan:
    """What is to be installed.

    Attributes:
        missing: Requirements that Slicer's Python does not meet, without torch.
        needsTorch: Whether torch is to come from the PyTorch extension.
    """

    missing: tuple[str, ...]
    needsTorch: bool

    @property
    def isEmpty(self) -> bool:
        """Whether all is there."""
        return not self.missing and not self.needsTorch

    def text(self) -> str:
        """The question to the user: what and how large."""
        names = [package_of(requirement) for requirement in self.missing]
        size = sum(ABOUT_MB.get(one, 0) for one in names) + (OTHERS_MB if names else 0)
        lines = [_("The engine on this computer needs, in Slicer's own Python:")]
        if self.needsTorch:
            lines.append(
                _("- torch, by Slicer's PyTorch extension: {small} MB, with an NVIDIA card about {large} MB").format(
                    small=ABOUT_MB["torch"], large=ABOUT_MB["torch with CUDA"]
                )
            )
        if names:
            lines.append(_("- {names}: about {size} MB").format(names=", ".join(names), size=size))
        lines.append(_("A server, or another Python, needs none of it. Install now?"))
        return "\n".join(lines)


def makePlan() -> Plan:
    """Look at what is installed; imports and changes nothing."""
    missing = tuple(one for one in REQUIREMENTS if not is_met(one) and package_of(one) not in CARRIED)
    return Plan(missing, not is_met(TORCH))


def install(plan: Plan) -> None:
    """Install what a plan lists; shows Slicer's own progress and may ask for a restart.

    Called again, also after a restart, it goes on with what is still missing.

    Raises:
        UserError: It could not be done, or the user declined.
    """
    if plan.needsTorch:
        _installTorch()
    if not plan.missing:
        return
    try:
        import slicer.packaging as packaging  # Slicer 5.11 and later
    except ImportError:
        packaging = None
    try:
        if packaging is None:
            slicer.util.pip_install(list(plan.missing))
        else:
            from packaging.requirements import Requirement

            requirements = [Requirement(one) for one in plan.missing]
            packaging.pip_ensure(requirements, requester="MedicalSAM3", prompt_install=False)
    except Exception as error:  # pip and its callers raise whatever they like
        raise UserError(
            _("The packages could not be installed ({reason}). What is there already is kept; try again.").format(
                reason=str(error).splitlines()[0] if str(error) else type(error).__name__
            )
        ) from error


def _installTorch() -> None:
    try:
        import PyTorchUtils
    except ImportError as error:
        raise UserError(
            _("Install the PyTorch extension first (Extensions Manager), restart Slicer and press Install again.")
        ) from error
    logic: Any = PyTorchUtils.PyTorchUtilsLogic()
    try:
        # By position nothing, by name only what every release knows: other names changed once.
        installed = logic.installTorch(askConfirmation=True)
    except Exception as error:  # a half installation raises TypeError and others
        raise UserError(
            _(
                "torch could not be installed ({reason}). Repair it in the PyTorch module, then press Install again."
            ).format(reason=type(error).__name__)
        ) from error
    if installed is None:
        raise UserError(_("torch was not installed."))
