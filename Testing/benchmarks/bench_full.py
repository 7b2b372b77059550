"""SAM3's full size, random weights, every gate open: what a concept costs, and what it could cost at best.

One slice on a CPU, sixteen on a GPU, which is made for many at once; all times are of one slice. t is the trunk's time
and d that of one concept, with a sixteenth of the neck, which runs once a slice. Full forwards cost 16 (t + d), sharing
the trunk costs t + 16 d; the bound is the one by the other. It stands here twice: with the d of ``transformers``'
detector, and with that of ours, which shares more than the trunk. The 860 million weights take 3.4 GB, the whole
section minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.detector import Question, detect, encode_text
from MedicalSAM3Lib.features import encode
from MedicalSAM3Lib.model_folder import LoadedModel
from MedicalSAM3Lib.runtime import pick_runtime
from MedicalSAM3Lib.stack import prepare
from MedicalSAM3Lib.structures import Progress, Volume
from MedicalSAM3Lib.views import thresholds
from Testing.benchmarks import bench_formats
from Testing.benchmarks.bench_prompts import OPEN, cost, measure_cost, second_concept
from Testing.benchmarks.measuring import seconds
from Testing.benchmarks.tables import Table, number, ratio
from Testing.benchmarks.worlds import CONCEPTS, Options, noise, random_model

MOST = 16
REPEATS = 2
SLICES = {"cpu": 1}
SLICES_OF_A_GPU = 16
PARTS = ("Detector", "Trunk t (s)", "Neck (s)", "Concept d (s)", "Bound 16(t+d)/(t+16d)", "Measured / bound")


@dataclass(frozen=True, slots=True)
class Parts:
    """Seconds on one slice: ``trunk``, ``neck``, one further concept of ``transformers``' detector (``theirs``,
    without the neck), and sixteen of ours with everything but the trunk (``ours``)."""

    trunk: float
    neck: float
    theirs: float
    ours: float


def run(options: Options) -> Iterator[Table]:
    """All tables of the full size; the small size goes the same way."""
    model = random_model(options.size)
    settings = options.settings(**OPEN)
    device = pick_runtime(settings).device
    model.model.to(device)
    slices = SLICES.get(device.type, SLICES_OF_A_GPU)
    volume = noise(slices, model.model.image_size)
    what = f"SAM3's {options.size} size, random weights, slices: {slices}, every gate open"
    measured = measure_cost(model, volume, (1, MOST), settings, 1)
    yield cost(f"Concepts on {what}", measured)
    ours, theirs = measured[MOST]
    yield bounds(f"Parts of {what}", measure_parts(model, volume, settings), theirs / ours)
    yield second_concept(f"The second concept on {what}", model, volume, options)
    yield bench_formats.trunk(f"The trunk of {what}", model, volume, options, slices)


def bounds(title: str, parts: Parts, measured: float) -> Table:
    """The ratio that sharing the trunk can give at most beside the one that was measured."""
    rows = []
    for label, concept in (("transformers", parts.theirs + parts.neck / MOST), ("ours", parts.ours / MOST)):
        bound = MOST * (parts.trunk + concept) / (parts.trunk + MOST * concept)
        times = (number(parts.trunk, 3), number(parts.neck, 3), number(concept, 3))
        rows.append((label, *times, number(bound), ratio(measured, bound)))
    return Table(title, PARTS, tuple(rows), (f"Measured: {MOST} full forwards take {number(measured)} times ours.",))


@torch.inference_mode()
def measure_parts(model: LoadedModel, volume: Volume, settings: SegmentSettings) -> Parts:
    """Time the steps of both detectors, of one slice; of ours and the trunk's as it comes to in a batch of all."""
    runtime, net = pick_runtime(settings), model.model
    stack = prepare(volume, model.preprocess, settings)
    calibration, _ = thresholds(model.presence, stack.modality, settings)
    pictures = stack.batch(slice(0, len(stack)), runtime.device)
    picture = pictures[:1]
    ids, mask = model.tokenizer.encode(CONCEPTS[:MOST])
    texts = encode_text(net, ids, mask, runtime)
    detector, one = net.detector_model, slice(0, 1)
    ids, mask = ids[one].to(runtime.device), mask[one].to(runtime.device)
    with runtime.computing():
        tokens = net.encode_trunk(pictures)
        seen = detector.get_vision_features(pixel_values=picture)
        text = detector.get_text_features(input_ids=ids, attention_mask=mask, return_dict=True)
        side = net.grid_size
        image = tokens.transpose(1, 2).reshape(len(stack), -1, side, side)
        trunk = seconds(lambda: net.encode_trunk(pictures)[0, 0, 0].item(), REPEATS)
        neck = seconds(lambda: detector.vision_encoder.neck(image)[0][0][0, 0, 0, 0].item(), REPEATS)
        decode = partial(detector, vision_embeds=seen, text_embeds=text, attention_mask=mask)
        theirs = seconds(lambda: decode().presence_logits.item(), REPEATS)
    question = Question(texts, calibration, "union")
    with encode(stack, net, runtime, _ignore) as features:
        ours = seconds(lambda: detect(features, net, question, runtime, _ignore), REPEATS)
    return Parts(trunk / len(stack), neck / len(stack), theirs, ours / len(stack))


def _ignore(progress: Progress) -> None:
    """Take no notice."""
