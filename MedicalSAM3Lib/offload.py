"""Which part of the network a stage of a run needs, so that the others can wait in main memory.

Of SAM3's 3.4 GB in float32 the trunk is 1.8, the text encoder 1.4, and all the rest 0.3: no stage needs two of them.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.runtime import Runtime

Part = Literal["trunk", "text", "detector", "tracker"]


def parts_of(net: MedicalSam3) -> dict[Part, list[nn.Module]]:
    """All modules of the network, each in the part that uses it."""
    model = net.detector_model
    tracker = [module for module in (net.tracker_model, net.tracker_neck) if module is not None]
    return {
        "trunk": [model.vision_encoder.backbone],
        "text": [model.text_encoder, model.text_projection],
        "detector": [
            model.vision_encoder.neck,
            model.geometry_encoder,
            model.detr_encoder,
            model.detr_decoder,
            model.dot_product_scoring,
            model.mask_decoder,
        ],
        "tracker": tracker,
    }


def place_for(part: Part, net: MedicalSam3, runtime: Runtime) -> None:
    """Put on the device what a stage needs: where memory is scarce that part and no other, else all.

    Raises:
        MemoryFull: It does not fit.
    """
    if not runtime.is_offloaded:
        runtime.place(net)
        return
    parts = parts_of(net)
    for modules in (modules for name, modules in parts.items() if name != part):
        for module in modules:
            module.to("cpu")
    runtime.release()
    for module in parts[part]:
        runtime.place(module)
