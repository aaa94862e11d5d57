"""Labels of clusters in the summary; the files are tested with the command."""

import numpy as np

from vaetrain.clustering.files import common_labels
from vaetrain.inference.trained_model import TrainedModel


def test_the_most_common_labels_are_given_with_their_shares(run_folder, layouts):
    data = TrainedModel(run_folder / "run").open_shards(run_folder / "shards")
    found = common_labels(data, np.arange(len(layouts)))
    names = [page["label"] for page in layouts if page["label"] != "other"]
    counts = sorted((names.count(name) / len(layouts) for name in set(names)), reverse=True)
    assert list(found.values()) == counts[:3]
    assert all(names.count(name) / len(layouts) == share for name, share in found.items())
