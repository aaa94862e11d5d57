"""The pictures of the README: made of a finished run, and not outdated."""

import numpy as np
import pytest
from PIL import Image

from launch.readme_picture import IMAGES, PICTURES, make_pictures, provenance
from shards.errors import UserError
from shards.format.png import encode_png


@pytest.mark.parametrize("name", PICTURES.values())
def test_the_readmes_pictures_are_of_this_version_and_experiment(name):
    with Image.open(IMAGES / name) as picture:
        assert picture.text == provenance(), "run: python -m launch.readme_picture runs/default"


def test_pictures_are_those_of_the_run(tmp_path):
    final = tmp_path / "run" / "final"
    final.mkdir(parents=True)
    with pytest.raises(UserError, match="not the directory of a finished run"):
        make_pictures(tmp_path / "run", tmp_path)
    (final / "config.json").write_text("{}")
    for place, name in enumerate(PICTURES):
        (final / name).write_bytes(encode_png(np.full((4, 6), place, np.uint8)))
    for place, path in enumerate(make_pictures(tmp_path / "run", tmp_path)):
        with Image.open(path) as picture:
            assert (np.asarray(picture) == place).all()
            assert picture.text == provenance()
