"""One list of kinds: what is read when it is given alone is found in a folder, too."""

from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import draw
from tlearn.data.decode import Decoder
from tlearn.data.find import find_images
from tlearn.data.formats import ENDINGS, FORMATS, is_image_name
from tlearn.data.sources.folder import FolderSource

Image.init()
OF_PILLOW = sorted(ending for ending, name in Image.EXTENSION.items() if name in {*FORMATS, "MPO"})


def test_every_ending_that_pillow_knows_of_a_format_counts():
    assert set(OF_PILLOW) <= set(ENDINGS)
    assert all(ending == ending.lower() and ending.startswith(".") for ending in ENDINGS)
    assert len(set(ENDINGS)) == len(ENDINGS)


def test_what_stands_for_a_missing_picture_is_not_an_image():
    assert is_image_name("cat.GIF")
    assert not is_image_name("imageNotFound.gif")
    assert not is_image_name("notes.txt")


@pytest.mark.parametrize("ending", [ending for ending in OF_PILLOW if Image.EXTENSION[ending] in Image.SAVE])
def test_a_picture_of_every_ending_is_found_in_a_folder_and_read(tmp_path, ending):
    file = tmp_path / "new" / "a" / f"0{ending.upper()}"
    file.parent.mkdir(parents=True)
    floats = ending == ".pfm"
    picture = Image.new("F", (40, 32), 0.5) if floats else Image.new("RGB", (40, 32), (200, 100, 50))
    picture.save(file, Image.EXTENSION[ending])
    draw(tmp_path / "new" / "b" / "1.png", (1, 2, 3))
    assert file in find_images(str(tmp_path / "new"))[0]
    assert list(find_images(str(file))[0]) == [file]
    found = [Path(sample.path).name for sample in FolderSource(tmp_path / "new").listing().samples]
    assert found == [file.name, "1.png"]
    pixels = Decoder(high_bit_depth="scale")(file).float()
    assert pixels.shape == (3, 32, 40)
    assert pixels.mean((1, 2)).tolist() == pytest.approx([128] * 3 if floats else [200, 100, 50], abs=6)
