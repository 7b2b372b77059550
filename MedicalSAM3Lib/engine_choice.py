"""Where the engines run: processes of this machine, or actors on the hosts of a Ray cluster. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from MedicalSAM3Lib.engine_port import Engines
    from MedicalSAM3Lib.engine_process import EngineOptions


def choose_engines(options: EngineOptions, ray: str | None) -> Engines:
    """Make engines; none is started yet.

    Args:
        options: For each.
        ray: Address of a Ray cluster, "auto" or "local"; None for this machine.

    Raises:
        SettingsError, OutputError: As ``ray_cluster.connect``.
    """
    if ray is None:
        from MedicalSAM3Lib.engines import ProcessEngines

        return ProcessEngines(options)
    from MedicalSAM3Lib.ray_cluster import connect
    from MedicalSAM3Lib.ray_engines import RayEngines

    return RayEngines(connect(ray, options), options)
