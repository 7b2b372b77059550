"""The network that a run starts from: SAM3 with other sizes, the same on every rank."""

from __future__ import annotations

import pytest
import torch

from MedicalSAM3Lib.errors import SettingsError
from Testing.training.tiny_world import ARCHITECTURE
from Training.config import ModelConfig
from Training.network import build_network, make_architecture


def test_an_architecture_is_laid_over_that_of_sam3() -> None:
    config = make_architecture({"detr_decoder_config": {"num_queries": 7}})
    assert config.detr_decoder_config.num_queries == 7
    assert config.detr_decoder_config.num_layers == 6


def test_an_unknown_key_of_the_architecture_is_named() -> None:
    with pytest.raises(SettingsError, match=r"vision_config\.backbone_config\.hiden_size, depth"):
        make_architecture({"vision_config": {"backbone_config": {"hiden_size": 3}}, "depth": 3})


def test_a_new_network_follows_from_the_seed() -> None:
    networks = [build_network(ModelConfig(architecture=ARCHITECTURE), seed)[0].state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])
    assert any(not torch.equal(networks[0][name], networks[2][name]) for name in networks[0])


def test_a_model_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingsError, match="nowhere"):
        build_network(ModelConfig(start_from="nowhere"), seed=0)
