"""Time and memory before a run: by itself where nothing leaves this computer for it, gone when the question changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)

import slicer

from MedicalSAM3.MedicalSAM3Slicer.logic import EngineSettings, MedicalSAM3Logic
from Testing.slicer import mrml
from Testing.slicer.engine_world import World
from Testing.slicer.harness.using import finish_run, make_volume, use, wait_for

SENTENCE = "About 2 min, 3.0 GB of memory."
MODULE = "MedicalSAM3Slicer.widget_prediction"


def estimates(world: World) -> int:
    """How often the engine was asked."""
    return sum(request == "POST /v1/estimate" for request in world.requests)


@pytest.fixture
def asking(panel: Any, slow_world: World) -> Any:
    """A panel with a volume that its server has already, and two concepts that it was not asked for."""
    use(panel, slow_world.url)
    make_volume()
    panel.concepts.setText("liver")
    finish_run(panel, slow_world)
    panel.concepts.setText("liver, spleen")
    return panel


def test_it_is_asked_on_request(panel: Any, world: World) -> None:
    use(panel, world.url)
    assert not panel.ui.predictButton.enabled
    make_volume()
    panel.concepts.setText("liver")
    panel.ui.predictButton.click()
    assert not panel.ui.predictButton.enabled
    wait_for(lambda: panel.ui.predictButton.enabled)
    assert panel.ui.predictionLabel.text.startswith(SENTENCE)
    assert panel.ui.predictionLabel.visible
    panel.concepts.setText("liver, spleen")
    assert not panel.ui.predictionLabel.visible, "that was another question"


def test_it_comes_by_itself_where_the_engine_has_the_volume(
    panel: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(panel, world.url)
    make_volume()
    panel.concepts.setText("liver")
    panel.ui.segmentButton.click()
    wait_for(lambda: not panel.run.isRunning())
    assert estimates(world) == 0, "of what was run already nothing is asked"
    sent = world.sent()
    monkeypatch.setattr(f"{MODULE}.WAIT_MS", 0)
    panel.concepts.setText("liver, spleen")
    wait_for(lambda: panel.ui.predictionLabel.text.startswith(SENTENCE))
    assert (estimates(world), world.sent()) == (1, sent)
    panel.update()
    assert not panel.prediction._timer.active, "the same question is asked once"


def test_no_image_goes_to_a_server_before_somebody_asks(panel: Any, world: World) -> None:
    use(panel, world.url)
    make_volume()
    panel.concepts.setText("liver")
    assert panel.prediction._timer.active
    panel.prediction._byItself()
    assert world.requests == []
    assert not panel.ui.predictionLabel.visible


def test_to_an_engine_on_this_computer_an_image_may_go(scene: Any) -> None:
    volume = make_volume()
    assert MedicalSAM3Logic(EngineSettings("local")).staysWhereItIs(volume)
    assert not MedicalSAM3Logic(EngineSettings("remote", "http://127.0.0.1:9")).staysWhereItIs(volume)


def test_another_question_ends_it_at_the_engine(asking: Any, slow_world: World) -> None:
    asking.prediction._byItself()
    order = slow_world.order()
    assert order.kind == "estimate"
    asking.concepts.setText("aorta")
    wait_for(lambda: order.job_id in slow_world.engines.cancelled)
    assert not asking.ui.predictionLabel.visible


def test_a_run_ends_it_and_it_waits_for_a_run(asking: Any, slow_world: World) -> None:
    asking.prediction._byItself()
    order = slow_world.order()
    asking.ui.againBox.setCurrentIndex(1)
    asking.ui.segmentButton.click()
    wait_for(lambda: order.job_id in slow_world.engines.cancelled)
    asked = estimates(slow_world)
    asking.prediction._byItself()
    assert estimates(slow_world) == asked
    assert asking.prediction._timer.active
    wait_for(lambda: any(order.kind == "segment" for order in slow_world.engines.running.values()))
    slow_world.finish()
    wait_for(lambda: not asking.run.isRunning())


def test_a_scene_that_closes_ends_it(asking: Any, slow_world: World) -> None:
    asking.prediction._byItself()
    order = slow_world.order()
    slicer.mrmlScene.Clear(0)
    wait_for(lambda: order.job_id in slow_world.engines.cancelled)
    assert not asking.ui.predictionLabel.visible


def test_an_engine_that_fails_is_left_alone_until_it_works(panel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(panel.logic, "staysWhereItIs", lambda volume: True)
    real = panel.logic.estimate
    monkeypatch.setattr(panel.logic, "estimate", lambda *words: asked.append(1) or real(*words))
    use(panel, "http://127.0.0.1:9")
    make_volume()
    panel.concepts.setText("liver")
    panel.prediction._byItself()
    wait_for(lambda: panel.prediction._task is None)
    assert panel.ui.predictionLabel.text.startswith("Time and memory are not known. ")
    panel.concepts.setText("spleen")
    panel.prediction._byItself()
    assert len(asked) == 1
    panel.prediction.wake()
    panel.prediction._byItself()
    assert len(asked) == 2


def test_an_engine_that_takes_long_is_asked_on_request_only(
    asking: Any, slow_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{MODULE}.PATIENCE_S", -1.0)
    asking.prediction._byItself()
    slow_world.finish()
    wait_for(lambda: asking.ui.predictionLabel.text.startswith(SENTENCE))
    asking.concepts.setText("spleen, liver")
    asking.prediction._byItself()
    assert estimates(slow_world) == 1
    asking.ui.predictButton.click()
    wait_for(lambda: estimates(slow_world) == 2)


def test_a_volume_that_cannot_be_sent_is_not_predicted(panel: Any) -> None:
    make_volume()
    panel.concepts.setText("liver")
    volume = panel.ui.inputSelector.currentNode()
    shear = np.eye(4)
    shear[0, 1] = 0.5
    volume.SetAndObserveTransformNodeID(mrml.transform(shear).GetID())
    use(panel, "http://127.0.0.1:9")
    panel.prediction._byItself()
    assert panel.prediction._task is None
