"""What a run's summary takes from its history."""

from detector.training.summary import counts


def test_the_loss_of_a_skipped_step_is_not_the_run_s() -> None:
    assert counts({"train/loss": 1.0}, "train/loss")
    assert not counts({"train/loss": float("nan"), "train/skipped": 1}, "train/loss")
    assert counts({"val/mAP50": 0.5, "train/skipped": 1}, "val/mAP50")
    assert not counts({}, "val/mAP50")
