"""TensorBoard: one run with settings, curves, and charts of several curves."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from vaetrain.config.experiment import load_experiment
from vaetrain.reporting.run_log import RunLog
from vaetrain.trackers.tensorboard import atlas_commands


def test_tensorboard_has_settings_and_final_metrics_in_one_run(tmp_path):
    experiment = load_experiment(None, ["tracker=tensorboard"])
    log = RunLog(tmp_path, experiment, horizon=64, images=0, enabled=True)
    log.start_trackers()
    log.write_metrics("train", 8, {"loss": 3.0})
    log.write_metrics("val", 8, {"ssim": 0.25})
    log.write_metrics("val", 16, {"ssim": 0.5})
    log.write_final_model(tmp_path / "final")
    log.close()
    events = tmp_path / "events"
    assert all(path.parent == events for path in events.rglob("events.out.*"))
    read = EventAccumulator(str(events)).Reload()
    assert [point.value for point in read.Scalars("val/ssim")] == [0.25, 0.5]
    # One point a metric would be a page of empty charts, before all others.
    assert read.Tags()["scalars"] == ["train/loss", "val/ssim"]
    content = {
        name: read.summary_metadata[f"_hparams_/{name}"].plugin_data.content
        for name in ("experiment", "session_start_info")
    }
    assert b"beta.max" in content["session_start_info"]
    assert b"val/ssim" in content["experiment"]
    text = read.Tensors("atlas/text_summary")[0].tensor_proto.string_val[0].decode()
    assert f"vaetrain.atlas {tmp_path} --shards data/sample --clusters {tmp_path}/clusters" in text


def test_commands_of_the_atlas_are_quoted():
    text = atlas_commands(Path("my runs/`a`"), "s3://b c")
    assert "vaetrain.cluster 'my runs/`a`' --shards 's3://b c' --out" in text


def test_tensorboard_shows_samples_beside_unseen_pages(tmp_path):
    experiment = load_experiment(None, ["tracker=tensorboard"])
    log = RunLog(tmp_path, experiment, horizon=64, images=0, enabled=True)
    log.start_trackers()
    log.write_metrics("train", 8, {"loss": 3.0})
    both = {"sample_precision": 0.25, "real_precision": 0.75}
    log.write_metrics("val", 8, {"loss": 2.0, "sample_recall": 0.5, **both})
    log.write_metrics("val", 16, {"loss": 1.0})
    log.close()
    read = EventAccumulator(str(tmp_path / "events")).Reload()
    (event,) = read.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = {
        chart.title: list(chart.multiline.tag)
        for category in layout.category
        for chart in category.chart
    }
    assert charts == {
        "loss": ["train/loss$", "val/loss$"],
        "precision": ["val/sample_precision$", "val/real_precision$"],
        "recall": ["val/sample_recall$"],
    }
    (of_samples,) = [each.title for each in layout.category if "Samples" in each.title]
    assert "N(0, I)" in of_samples
