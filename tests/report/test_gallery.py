"""Which pictures are shown, and showing them whatever they are and are called."""

import io
import warnings

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from tests.conftest import draw
from tlearn.analysis.outputs import Outputs
from tlearn.data.sampling import draw_seed
from tlearn.data.transforms import Transform
from tlearn.report.gallery import (
    Thumbnails,
    answers_figure,
    augmentation_figure,
    card,
    confident_correct,
    confident_mistakes,
    gallery_figure,
    least_certain,
    mistakes_of,
    predictions_figure,
    random_images,
)


def _outputs(root, classes=("ant", "bee", "cat"), count=5):
    """Give five pictures; 1, 2 and 4 are taken for another class, of which the network is surest at 4."""
    logits = torch.tensor([[3.0, 0, 0], [0, 1, 0], [0, 2, 0], [0, 0, 0.5], [0, 0, 4]])
    targets = torch.tensor([0, 0, 0, 2, 1])
    paths = [f"{number}.png" for number in range(count)]
    return Outputs("val", list(classes), root, paths, targets, logits)


def test_the_surest_mistakes_come_first_and_right_answers_never(tmp_path):
    assert confident_mistakes(_outputs(tmp_path), 9) == [4, 2, 1]
    assert confident_mistakes(_outputs(tmp_path), 2) == [4, 2]


def test_the_surest_right_answers_come_first_and_mistakes_never(tmp_path):
    assert confident_correct(_outputs(tmp_path), 9) == [0, 3]
    assert confident_correct(_outputs(tmp_path), 1) == [0]


def test_random_images_are_the_same_each_time_and_other_ones_with_another_seed(tmp_path):
    some = random_images(_outputs(tmp_path), 3)
    assert len(set(some)) == 3
    assert random_images(_outputs(tmp_path), 3) == some
    assert len({tuple(random_images(_outputs(tmp_path), 5, seed)) for seed in range(9)}) > 1
    assert sorted(random_images(_outputs(tmp_path), 99)) == [0, 1, 2, 3, 4]


def test_predictions_stand_above_targets_and_wrong_ones_are_red(tmp_path):
    draw(tmp_path / "0.png", (200, 30, 30))
    texts = predictions_figure(_outputs(tmp_path), [4, 0]).axes[0].texts
    titles = [text for text in texts if "/" in text.get_text()]
    assert [text.get_text() for text in titles] == ["cat\n/ bee", "ant\n/ ant"]
    assert [text.get_color() for text in titles] == ["tab:red", "black"]


def test_the_least_certain_may_be_right(tmp_path):
    assert least_certain(_outputs(tmp_path), 3) == [3, 1, 2]


def test_mistakes_of_a_class_are_those_of_its_own_pictures(tmp_path):
    outputs = _outputs(tmp_path)
    assert [mistakes_of(outputs, label, 9) for label in range(3)] == [[2, 1], [4], []]
    assert mistakes_of(outputs, 0, 1) == [2]


def test_a_thumbnail_is_a_small_jpeg_of_the_picture(tmp_path):
    draw(tmp_path / "a.png", (200, 30, 30), (800, 400))
    with Image.open(io.BytesIO(Thumbnails(tmp_path)("a.png"))) as image:
        assert (image.format, image.size) == ("JPEG", (160, 80))
        assert image.getpixel((80, 40)) == pytest.approx((200, 30, 30), abs=30)


def test_small_pictures_stay_as_they_are(tmp_path):
    draw(tmp_path / "a.png", (200, 30, 30), (12, 8))
    with Image.open(io.BytesIO(Thumbnails(tmp_path)("a.png"))) as image:
        assert image.size == (12, 8)


def test_a_picture_that_cannot_be_read_gives_the_reason(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    thumbnails = Thumbnails(tmp_path)
    assert "not an image" in thumbnails("a.png")
    assert thumbnails("b.png") == "no such file"


def test_thumbnails_are_bounded(tmp_path):
    draw(tmp_path / "a.png", (200, 30, 30))
    thumbnails = Thumbnails(tmp_path, most=2)
    assert [isinstance(thumbnails("a.png"), bytes) for _ in range(4)] == [True, True, False, False]


def test_a_card_tells_class_prediction_and_probabilities(tmp_path):
    wrong, right = (card(_outputs(tmp_path), index, Thumbnails(tmp_path)) for index in (4, 0))
    assert (wrong.name, wrong.facts) == ("4.png", [("class", "bee"), ("taken for", "cat")])
    assert [(name, is_right) for name, _, is_right in wrong.bars] == [("cat", False), ("ant", False), ("bee", True)]
    assert sum(share for _, share, _ in wrong.bars) == pytest.approx(1)
    assert right.facts == [("class", "ant")]


NAMES = ["$x_1$", "a\nb\udcff", "w" * 200]


def test_a_gallery_shows_files_and_pixels_with_their_titles(tmp_path):
    paths = [draw(tmp_path / f"{number}.png", (200, 30, 30)) for number in range(3)]
    pixels = torch.zeros(3, 20, 30, dtype=torch.uint8)
    pixels[1] = 255
    figure = gallery_figure([*paths, pixels], ["cat", *NAMES], columns=3)
    [axes] = figure.axes
    assert [text.get_text() for text in axes.texts][:2] == ["cat", "$x_1$"]
    # Each is as large as its place, and the fourth begins the second row.
    drawn = axes.images[0].get_array()
    height = drawn.shape[0] // 2
    assert drawn[height + 50, 80].tolist() == [0, 255, 0]
    assert drawn[60, 80, 0] > 100 > drawn[60, 80, 1]
    _draw(figure)


PREPROCESSING = {"resize": 32, "size": 32, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3}


def _tiles(figure, count):
    """Give the middle pixel of each image of a gallery of one line of titles."""
    canvas = figure.axes[0].images[0].get_array()
    return [canvas[24 + 96 + at // 6 * 216, 96 + at % 6 * 192].tolist() for at in range(count)]


def test_draws_of_an_augmentation_are_those_that_kept_views_have(tmp_path):
    picture = torch.full((3, 40, 40), 100, dtype=torch.uint8)

    def lighter(image):
        return torch.full((3, 32, 32), 100 + int(torch.randint(100, (1,))), dtype=torch.uint8)

    transform = Transform(PREPROCESSING, [lighter])
    figure = augmentation_figure(picture, transform, "a.png")
    titles = ["as it is", *(f"draw {number}" for number in range(1, 17))]
    assert [text.get_text() for text in figure.axes[0].texts] == titles
    views = [transform.pixels(picture, draw_seed(0, view, "a.png"))[:, 0, 0].tolist() for view in range(16)]
    assert _tiles(figure, 17) == [[100] * 3, *views]
    assert len({tuple(view) for view in views}) > 8
    assert len(augmentation_figure(picture, transform, "a.png", 3).axes[0].texts) == 4


def test_a_transform_without_augmentation_shows_each_version_that_is_averaged(tmp_path):
    picture = draw(tmp_path / "a.png", (200, 30, 30))
    for average, titles in (([], ["pad"]), (["crop", "flip"], ["crop", "flip"])):
        transform = Transform({**PREPROCESSING, "fit": "pad", "average": average})
        figure = augmentation_figure(picture, transform, "a.png")
        assert [text.get_text() for text in figure.axes[0].texts] == ["as it is", *titles]


def test_a_title_can_have_lines_and_a_missing_picture_leaves_its_place(tmp_path):
    figure = gallery_figure([tmp_path / "none.jpg"], ["cat\ndog 90 %"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["cat\ndog 90 %", "no such file"]


def _draw(figure):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FigureCanvasAgg(figure).draw()


def test_answers_stand_beside_the_pictures_and_the_right_one_has_its_colour(tmp_path):
    for number in range(4):
        draw(tmp_path / f"{number}.png", (200, 30, 30))
    figure = answers_figure(_outputs(tmp_path, NAMES), [4, 0, 1, 2])
    pictures, bars = figure.axes[:8:2], figure.axes[1:8:2]
    assert [len(axes.images) for axes in pictures] == [0, 1, 1, 1]
    # The first has no file.
    assert [text.get_text() for text in pictures[0].texts] == ["no such file"]
    widths = [bar.get_width() for bar in bars[0].patches]
    assert widths == sorted(widths, reverse=True)
    colours = [bar.get_facecolor()[:3] for bar in bars[0].patches]
    assert colours[0] == colours[1] != colours[2]
    _draw(figure)


def test_answers_of_no_picture_are_an_empty_figure(tmp_path):
    _draw(answers_figure(_outputs(tmp_path), []))
