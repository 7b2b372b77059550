"""The one configuration of a training run: a YAML file, dotted overrides, checked on construction.

    python -m Training.train --config Training/recipes/tiny.yaml optim.lr=1e-4 run.steps=500

Every key is read somewhere (a test looks), an unknown key is an error, and the whole configuration is
saved with every checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from yaml import YAMLError  # type: ignore[import-untyped]

from MedicalSAM3Lib.errors import SettingsError
from MedicalSAM3Lib.faults import fault_line
from MedicalSAM3Lib.preprocess import PreprocessSpec
from Training.clips import ClipConfig
from Training.distil import DistilConfig
from Training.losses import LossConfig
from Training.phrases import PromptKind
from Training.transforms import AugmentConfig

Module = Literal["trunk", "neck", "text", "geometry", "encoder", "decoder", "masks", "scoring", "tracker"]
MODULES: tuple[str, ...] = get_args(Module)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(_Frozen):
    """What is trained: an existing checkpoint, or a new network of the given sizes.

    Attributes:
        start_from: Model folder, checkpoint file or name that the registry knows; "" for a new network.
        architecture: Keys of ``transformers``' ``Sam3Config`` for a new network.
        tracker: Keys of ``Sam3TrackerVideoConfig`` for a new tracker, where the network has none.
        replace_tracker: Begin the tracker anew also where the network has one.
        tokenizer: Folder of the tokenizer of a new network; "" for the project's own.
    """

    start_from: str = ""
    architecture: dict[str, Any] | None = None
    tracker: dict[str, Any] | None = None
    replace_tracker: bool = False
    tokenizer: str = ""

    @model_validator(mode="after")
    def _one_origin(self) -> ModelConfig:
        if bool(self.start_from) == (self.architecture is not None):
            raise ValueError("expected either start_from or architecture, got both or neither")
        if self.start_from and self.tokenizer:
            raise ValueError("expected no tokenizer beside start_from (a model brings its own), got one")
        return self


class DataConfig(_Frozen):
    """Which rows of the manifest are shown, and how.

    Attributes:
        manifest: Parquet file; its image and mask paths are relative to its folder.
        batch_slices: Slices a rank sees in one step.
        phrases_per_slice: Concepts asked of each slice, at most: fewer where it shows fewer.
        negatives: Fraction (0..1) of the asked concepts that are absent from their slice.
        nonsense: Fraction (0..1) of the absent concepts that no volume of the manifest can show.
        elsewhere: Whether anatomy that no concept of the manifest names counts as absent everywhere (``ELSEWHERE``):
            true of a manifest that is labelled throughout, and false knowledge for most others.
        size_power: A present concept is drawn by this power of its visible area; 0 = all alike.
        sided_weight: How often one side of a paired organ is asked for, beside any other concept.
        min_object_pixels, max_objects: Smaller pieces, and those beyond the largest, are no objects.
        cache: Folder in which volumes are kept as they are read, for data that memory does not hold; "" = memory.
        volume_weights: How often a volume is drawn; 1 unless named.
        dataset_temperature, modality_temperature: 1 draws every volume alike often, more makes small data sets and rare
            modalities less rare.
        prompts: What concepts are asked with beside their names (``Training/phrases.py``).
        preprocess: What the model sees, as it is written into the model folder.
        augment: How far training pictures depart from the stored ones.
        clips: Consecutive slices, on which the tracker learns.
    """

    manifest: str
    cache: str = ""
    batch_slices: int = Field(default=1, ge=1)
    phrases_per_slice: int = Field(default=2, ge=1)
    negatives: float = Field(default=0.3, ge=0.0, le=1.0)
    nonsense: float = Field(default=0.3, ge=0.0, le=1.0)
    elsewhere: bool = False
    size_power: float = Field(default=0.0, ge=0.0)
    sided_weight: float = Field(default=0.35, gt=0.0)
    min_object_pixels: int = Field(default=6, ge=1)
    max_objects: int = Field(default=16, ge=1)
    volume_weights: dict[str, Annotated[float, Field(gt=0.0)]] = Field(default_factory=dict)
    dataset_temperature: float = Field(default=1.0, ge=1.0)
    modality_temperature: float = Field(default=1.0, ge=1.0)
    prompts: tuple[PromptKind, ...] = ("synonym",)
    preprocess: PreprocessSpec = PreprocessSpec(image_size=1008)
    augment: AugmentConfig = AugmentConfig()
    clips: ClipConfig = ClipConfig()


class OptimConfig(_Frozen):
    """AdamW, its learning rates and their schedule (formulas: ``Training/optim.py``).

    Attributes:
        lr: Learning rate of every module that ``module_lr`` does not name.
        module_lr: Learning rates by module.
        layer_decay: Factor (0..1] per layer group of the trunk, from the last down (Eq. 1); 1 = off.
        layer_groups: Groups into which the trunk's blocks are gathered; None = a group per block.
        position_embedding_scale: Factor of the trunk's learning rate for its position embedding, which
            layer decay would otherwise treat as the lowest layer.
        weight_decay: Decoupled; biases and LayerNorm have none.
        betas: Of AdamW.
        clip: Largest L2 norm of the gradient.
        warmup: Steps of linear rise.
        timescale: Steps after which the inverse square root has taken the rate to 1/sqrt(2).
        cooldown: Last steps, over which the rate falls linearly to zero.
        max_skipped: Steps with a loss or gradient that is not finite that are skipped before the run gives up.
        frozen: Modules that keep the weights that they start with.
        low_rank: Rank of adapters on the linear layers of ``low_rank_modules``, which are frozen otherwise; 0 = off.
        low_rank_alpha: Adapters are scaled by this over their rank.
        low_rank_modules: Where adapters are put.
    """

    lr: float = Field(default=1e-4, gt=0.0)
    module_lr: dict[Module, Annotated[float, Field(gt=0.0, allow_inf_nan=False)]] = Field(default_factory=dict)
    layer_decay: float = Field(default=1.0, gt=0.0, le=1.0)
    layer_groups: int | None = Field(default=None, ge=1)
    position_embedding_scale: float = Field(default=1.0, gt=0.0)
    weight_decay: float = Field(default=0.1, ge=0.0)
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = Field(default=0.1, gt=0.0)
    warmup: int = Field(default=0, ge=0)
    timescale: int = Field(default=1000, ge=1)
    cooldown: int = Field(default=0, ge=0)
    max_skipped: int = Field(default=10, ge=0)
    frozen: tuple[Module, ...] = ()
    low_rank: int = Field(default=0, ge=0)
    low_rank_alpha: float = Field(default=16.0, gt=0.0)
    low_rank_modules: tuple[Module, ...] = ("trunk", "text")


class WarmStartConfig(_Frozen):
    """Dense warm start of trunk and neck before the real objective; ``steps`` 0 turns it off."""

    steps: int = Field(default=0, ge=0)
    lr: float = Field(default=1e-3, gt=0.0)
    batch_slices: int = Field(default=8, ge=1)


class RunConfig(_Frozen):
    """How long, where and with which arithmetic.

    Attributes:
        out: Folder of the run: checkpoints, log, TensorBoard.
        steps: Optimiser steps; or else
        epochs: Passes over the training slices.
        device: "auto" (CUDA if there is one), "cpu" or "cuda".
        precision: "bf16" runs the forward under autocast; weights, losses and AdamW stay fp32.
        seed: Of the weights, the dropout and the order of the data.
        save_every: Steps between checkpoints.
        validate_every: Steps between validations; the best one is kept as ``best``. 0 = never.
        validate_batches: Most batches a validation looks at.
        keep: How many of the latest checkpoints stay (``best`` stays besides).
        num_threads: Threads of one process on the CPU.
        timeout_minutes: A rank that does not come for so long ends the run.
        compile: Compile the forward (``torch.compile``).
        accumulate: Parts into which the slices of a step are divided, one after the other; the gradient is the same.
        recompute: Keep fewer activations and compute them again in the backward (``Training/recompute.py``).
        shard: Divide weights, gradients and moments among the ranks (``Training/sharding.py``).
        ema_decay: Of the running mean of the weights that is validated and used; 0 = none.
        plan: Say before the start what memory and time the run will take; off saves a few seconds.
        wandb: Project at Weights & Biases that is sent the numbers of the log; "" = nothing is sent anywhere.
        allow_changed: Dotted keys that may differ from those of the checkpoint that a run resumes.
    """

    out: str
    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0.0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["bf16", "fp32"] = "bf16"
    seed: int = Field(default=42, ge=0)
    save_every: int = Field(default=1000, ge=1)
    validate_every: int = Field(default=0, ge=0)
    validate_batches: int = Field(default=50, ge=1)
    keep: int = Field(default=2, ge=1)
    num_threads: int = Field(default=1, ge=1)
    timeout_minutes: float = Field(default=120.0, gt=0.0)
    compile: bool = False
    accumulate: int = Field(default=1, ge=1)
    recompute: bool = False
    shard: bool = False
    ema_decay: float = Field(default=0.0, ge=0.0, lt=1.0)
    plan: bool = True
    wandb: str = ""
    allow_changed: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_length(self) -> RunConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("expected either steps or epochs, got both or neither")
        return self


class TrainConfig(_Frozen):
    """Everything that a run depends on."""

    model: ModelConfig
    data: DataConfig
    losses: LossConfig = LossConfig.model_validate({})
    optim: OptimConfig = OptimConfig()
    warm_start: WarmStartConfig = WarmStartConfig()
    distil: DistilConfig = DistilConfig()
    run: RunConfig

    @model_validator(mode="after")
    def _parts_are_whole(self) -> TrainConfig:
        if self.run.accumulate > 1 and self.data.clips.per_step:
            raise ValueError("run.accumulate: expected 1 beside data.clips, whose slices belong together, got more")
        if self.data.batch_slices % self.run.accumulate:
            raise ValueError("run.accumulate: expected a divisor of data.batch_slices, got another number")
        if self.distil.teacher and not self.losses.detector:
            raise ValueError("distil.teacher: expected a detector that learns, got losses.detector=false")
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML file and lay ``key.sub=value`` overrides over it.

    Raises:
        SettingsError: The file cannot be read, or a key is unknown, missing or out of range.
    """
    wrong = next((text for text in overrides if not text.partition("=")[0] or "=" not in text), None)
    if wrong is not None:
        raise SettingsError(f"Expected overrides like optim.lr=1e-4, got '{wrong}'; write key=value without spaces.")
    try:
        merged = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
        values = OmegaConf.to_container(merged, resolve=True)
    except (OSError, TypeError, YAMLError, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"Expected a readable YAML file of settings, got {reason}; check --config.") from error
    return make_config(values)


def make_config(values: Any) -> TrainConfig:
    """Check nested values; a wrong one raises ``SettingsError`` with one readable line."""
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise SettingsError(fault_line(error.errors()[0], "configuration")) from error
