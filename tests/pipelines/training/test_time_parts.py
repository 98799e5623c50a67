import pytest
from matplotlib.figure import Figure

from pipelines.pictures.palette import PALETTE
from pipelines.training.progress import epoch_line
from pipelines.training.time_parts import PARTS, advice, draw_times

ROW = {"epoch": 1, "train/loss": 1.0, "time/train_s": 10.0, "time/wait_s": 3.1, "time/forward_s": 4.0}


def test_advice_where_more_than_a_tenth_is_waiting():
    assert advice(ROW) == "waited 31% for data: raise SSD_LOADER_WORKERS"
    assert advice(ROW | {"time/wait_s": 1.0}) == ""
    here = ROW | {"time/wait_s": 0.1, "time/read_s": 0.2, "time/augment_s": 1.5}
    assert advice(here) == "waited 18% for data (augment 15%): raise SSD_LOADER_WORKERS"
    assert advice({"epoch": 1}) == ""


def test_the_epochs_line_ends_with_the_advice():
    row = ROW | {"train/class_loss": 0.5, "train/box_loss": 0.5, "time/validate_s": 0.0, "time/images_per_s": 9.0}
    assert epoch_line(row, 1).endswith("9.0 images/s; waited 31% for data: raise SSD_LOADER_WORKERS")
    assert epoch_line(row | {"time/wait_s": 0.0}, 1).endswith("9.0 images/s")


def test_the_stack_is_as_high_as_the_epoch_took():
    axes = Figure().subplots()
    draw_times(axes, [ROW, ROW | {"epoch": 2, "time/checkpoint_s": 0.5}], PALETTE)
    tops = {}
    for bar in axes.patches:
        epoch = round(bar.get_x() + bar.get_width() / 2)
        tops[epoch] = max(tops.get(epoch, 0), bar.get_y() + bar.get_height())
    assert tops == {1: pytest.approx(7.1), 2: pytest.approx(7.6)}  # 4 + 3.1, and 0.5
    assert axes.get_legend_handles_labels()[1] == [PARTS[part] for part in ("forward", "wait", "checkpoint")]
