"""``transformers``' own ``Sam3VideoModel``, with our weights, over the slices of a volume as over a video.

So that it shows what it can, and differs from ours in nothing but its way of going through the slices:

- The same weights, strictly loaded, and the same pictures (``stack.batch``).
- Hot start off: it removes objects that flicker after their first frame, and a volume has no first frame. All other
  thresholds are its own (a detection counts above 0.5, a new object needs 0.7 once something is tracked), except that
  specks and holes, 16 pixels of its 288 x 288 masks, are as large a part of smaller masks.
- Its detector asks with the geometry encoder's CLS token (``full_forward``), and the ViT's epsilon is that of our
  configuration: its logits are ours to rounding.
- Suppression of overlapping detections, holes and specks come from compiled kernels that are fetched from the network,
  and without them are left out with a warning: each query that sees an object would be tracked as one more object.
  ``Kernels`` puts the same three rules in their place.
- Both directions: a pass from the first slice up and one from the last slice down (``reverse`` starts one below the
  frame that it is given), each with a session of its own. It runs trunk and memory as it does, and forgets nothing.

- A second row of it reads the detector's answer as ours does (``SameDetections``). By itself it takes queries with a
  score above 0.5; where a network says what it sees in its semantic map, as the bundled one does, that is nothing.

Its answer on a slice is the union of its objects of a concept in both passes, without those that it suppressed
itself; the weight with which a concept competes for voxels is the highest score that it reports for them. A concept
that has an object is found.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from transformers import Sam3VideoConfig, Sam3VideoModel
from transformers.models.sam3.modeling_sam3 import Sam3ImageSegmentationOutput, Sam3VisionEncoderOutput
from transformers.models.sam3_video import modeling_sam3_video
from transformers.models.sam3_video.modeling_sam3_video import Sam3VideoInferenceSession

from MedicalSAM3Lib.architecture import architecture_of, to_config
from MedicalSAM3Lib.fusion import CONFIDENT, SliceMap
from MedicalSAM3Lib.model_folder import LoadedModel
from MedicalSAM3Lib.objects import SliceObjects, objects_of
from MedicalSAM3Lib.presence import SliceCalibration
from MedicalSAM3Lib.runtime import Runtime
from MedicalSAM3Lib.stack import SliceStack
from Testing.benchmarks.full_forward import Maps, always_with_cls_token, read_pair

HOT_START_OFF = {"hotstart_delay": 0, "hotstart_unmatch_thresh": 0, "hotstart_dup_thresh": 0}
FULL_MASK_SIDE = 288


class SameDetections(Sam3VideoModel):
    """The video model with our reading of the detector's answer: the same gate, the same objects, the same scores."""

    calibration = SliceCalibration()

    def run_detection(
        self, inference_session: Sam3VideoInferenceSession, vision_embeds: Sam3VisionEncoderOutput
    ) -> dict[int, dict[str, Tensor]]:
        """Prompt number to its objects on a frame, as ``Sam3VideoModel`` has it; nothing reads the boxes."""
        found = {}
        for number, mask in inference_session.prompt_attention_masks.items():
            if number not in inference_session.prompt_embeddings:
                inference_session.prompt_embeddings[number] = self.detector_model.get_text_features(
                    input_ids=inference_session.prompt_input_ids[number], attention_mask=mask, return_dict=True
                )
            answer = self.detector_model(
                vision_embeds=vision_embeds,
                text_embeds=inference_session.prompt_embeddings[number],
                attention_mask=mask,
            )
            objects = self._objects(answer)
            boxes = torch.zeros(len(objects.scores), 4, device=self.device)
            logits, scores = objects.logits.float().to(self.device), objects.scores.to(self.device)
            found[number] = {"bbox": boxes, "mask": logits, "scores": scores}
        return found

    def _objects(self, answer: Sam3ImageSegmentationOutput) -> SliceObjects:
        read = read_pair(answer, self.calibration)
        if read.fused is None:
            return SliceObjects(torch.zeros(0, *answer.semantic_seg.shape[-2:]), torch.zeros(0))
        logits = read.fused.logits.to(read.instances)
        return objects_of(read.instances, read.scores, logits, read.fused.weight, CONFIDENT)


def build_video_model(model: LoadedModel, kind: type[Sam3VideoModel] = Sam3VideoModel) -> Sam3VideoModel:
    """The video model with the weights of ``model``, which must have a tracker."""
    net = model.model
    config = Sam3VideoConfig.from_dict({**to_config(architecture_of(net)), **HOT_START_OFF})
    config.fill_hole_area = max(1, round(config.fill_hole_area * (config.low_res_mask_size / FULL_MASK_SIDE) ** 2))
    video = kind(config)
    video.load_state_dict(net.state_dict(), strict=True)
    always_with_cls_token(video.detector_model)
    return video.to(next(net.parameters()).device).eval()


def both_directions(
    video: Sam3VideoModel, model: LoadedModel, stack: SliceStack, concepts: list[str], runtime: Runtime
) -> Maps:
    """Go through all slices up and down; the union of what both passes find."""
    maps: Maps = {}
    for is_reverse in (False, True):
        for key, one in one_direction(video, _session(model, stack, concepts, runtime), is_reverse, runtime):
            maps[key] = _union(maps[key], one) if key in maps else one
    return maps


def one_direction(
    video: Sam3VideoModel, session: Sam3VideoInferenceSession, is_reverse: bool, runtime: Runtime
) -> Iterator[tuple[tuple[int, int], SliceMap]]:
    """One pass over all frames of a session; yields a map for each concept that is seen on a slice."""
    start = session.num_frames if is_reverse else 0
    with kernels(), runtime.computing():
        for frame in video.propagate_in_video_iterator(session, start_frame_idx=start, reverse=is_reverse):
            by_concept: dict[int, list[int]] = {}
            for number in frame.obj_id_to_mask:
                if number not in frame.suppressed_obj_ids:
                    by_concept.setdefault(session.obj_id_to_prompt_id[number], []).append(number)
            for concept, numbers in by_concept.items():
                logits = torch.cat([frame.obj_id_to_mask[number] for number in numbers]).amax(0)
                score = max(float(frame.obj_id_to_score[number]) for number in numbers)
                yield (concept, frame.frame_idx), SliceMap(logits.half().cpu(), score)


@contextmanager
def kernels() -> Iterator[None]:
    """Put our kernels where ``transformers`` keeps those that it fetched."""
    with patch.object(modeling_sam3_video, "cv_utils_kernel", Kernels()):
        yield


class Kernels:
    """The two functions of ``kernels-community/cv-utils`` that the video model calls."""

    @staticmethod
    def generic_nms(iou: Tensor, scores: Tensor, threshold: float, use_iou_matrix: bool = True) -> Tensor:
        """Indices that are kept: by falling score, each that overlaps with none before it by more than ``threshold``.

        Args:
            iou: Of all pairs ``(n, n)``.
            scores: ``(n,)``.
            threshold: Largest IoU of two that are kept.
            use_iou_matrix: As the kernel has it; boxes instead of a matrix are not there.
        """
        if not use_iou_matrix:
            raise ValueError("expected a matrix of IoUs, got boxes")
        kept: list[int] = []
        for index in scores.argsort(descending=True).tolist():
            if not kept or float(iou[index, kept].max()) <= threshold:
                kept.append(index)
        return torch.tensor(kept, dtype=torch.int64, device=iou.device)

    @staticmethod
    def cc_2d(masks: Tensor, get_counts: bool = True) -> tuple[Tensor, Tensor]:
        """Number and size of the connected part (8 neighbours) of each pixel of ``(n, 1, h, w)``; 0 outside."""
        if not get_counts:
            raise ValueError("expected to be asked for sizes, too")
        labels = np.zeros(tuple(masks.shape), np.int32)
        counts = np.zeros(tuple(masks.shape), np.int32)
        for row, mask in enumerate(masks[:, 0].cpu().numpy()):
            labels[row, 0], _ = ndimage.label(mask, np.ones((3, 3)))
            sizes = np.bincount(labels[row, 0].ravel())
            sizes[0] = 0
            counts[row, 0] = sizes[labels[row, 0]]
        return torch.from_numpy(labels).to(masks.device), torch.from_numpy(counts).to(masks.device)


def _session(model: LoadedModel, stack: SliceStack, concepts: list[str], runtime: Runtime) -> Sam3VideoInferenceSession:
    """A new video of the stack's pictures, and the concepts as its prompts: number p is concept p."""
    pictures = stack.batch(slice(0, len(stack)), runtime.device)
    session = Sam3VideoInferenceSession(
        video=pictures,
        video_height=pictures.shape[-2],
        video_width=pictures.shape[-1],
        inference_device=runtime.device,
        inference_state_device=runtime.device,
        video_storage_device=runtime.device,
        dtype=torch.float32,
    )
    ids, mask = (tokens.to(runtime.device) for tokens in model.tokenizer.encode(concepts))
    for row, concept in enumerate(concepts):
        number = session.add_prompt(concept)
        session.prompt_input_ids[number] = ids[row : row + 1]
        session.prompt_attention_masks[number] = mask[row : row + 1]
    return session


def _union(one: SliceMap, other: SliceMap) -> SliceMap:
    return SliceMap(torch.maximum(one.logits, other.logits), max(one.weight, other.weight))
