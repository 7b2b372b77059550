"""Which mode wins, and the table that says so."""

from __future__ import annotations

import pytest

from Training.modes import ModeScores, best_mode, mode_numbers, mode_tables
from Training.scoring import Overlap, Rejections, Scores


def scores(both: int, missed: int = 0) -> ModeScores:
    """Liver with a Dice of ``both / 10``; a left kidney, which is counted with the kidney, and not beside it."""
    held_out, unseen = Scores(), Scores()
    held_out.overlaps.update(liver=Overlap(10, 10, both, 2), left_kidney=Overlap(10, 10, 0, 1))
    held_out.wrong = Rejections(4, 3)
    unseen.overlaps.update(liver=Overlap(10, 10, 5, 1), duct=Overlap(0, missed, 0, 1))
    return ModeScores(held_out, unseen)


@pytest.mark.parametrize(
    ("detect", "track", "fuse", "best"),
    [(5, 6, 6, "fuse"), (5, 6, 7, "fuse"), (5, 7, 6, "track"), (7, 5, 6, "detect"), (6, 6, 5, "detect")],
)
def test_fuse_must_be_at_least_as_good_as_both(detect: int, track: int, fuse: int, best: str) -> None:
    assert best_mode({"detect": scores(detect), "track": scores(track), "fuse": scores(fuse)}) == best


def test_the_table_has_every_mode_and_every_concept() -> None:
    compared = {"detect": scores(5, 3), "track": scores(6), "fuse": scores(7)}
    table = mode_tables(compared)  # type: ignore[arg-type]
    assert "| mean Dice, large organs, muscles and bones | 0.500 (n=1) | 0.600 (n=1) | 0.700 (n=1) |" in table
    assert "| liver | 0.50 | 0.60 | 0.70 | 0.50 | 0.50 | 0.50 |" in table
    assert "| absent organs not found | 0.750 (n=4) |" in table
    assert "| left kidney | 0.00 | 0.00 | 0.00 |  |  |  |" in table
    assert "this model is **fuse**" in table
    assert mode_numbers(compared)["track"]["held_out"]["liver"] == 0.6  # type: ignore[arg-type]
