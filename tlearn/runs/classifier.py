"""A trained model to be used from Python: predictions, logits and features of images in any form."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tlearn.data.image_inputs import ImageInput, decode_input, listed
from tlearn.data.transforms import Transform
from tlearn.errors import BadImageError, ConfigError, DataError, capped
from tlearn.runs.model import Model
from tlearn.runs.predictions import Prediction, Predictions, Result, predictions_of, results_of

# Classes that a prediction names unless told otherwise
_MOST_NAMED = 5
Images = ImageInput | Iterable[ImageInput]


@dataclass(frozen=True, repr=False)
class Classifier(Model):
    """A trained model that takes images as its caller has them.

    `images` are one image or several: a path, an image of Pillow's, a uint8 array [H, W, 3] or [H, W], a uint8 tensor
    [3, H, W]; a list of them, a batch [N, ...] of arrays or tensors, a folder or a glob. Everything is computed on the
    device of `network` and in its eval mode. DataError names all images that cannot be read.
    """

    def __repr__(self) -> str:
        return f"Classifier({self.name}, {len(self.classes)} classes, {self.folder})"

    def predict(
        self,
        images: Images,
        topk: int | None = None,
        *,
        calibrated: bool = True,
        batch_size: int = 32,
        num_workers: int | None = None,
    ) -> Prediction | Predictions:
        """Predict the class of one image, or the classes of several in their order.

        Args:
            images: see the class.
            topk: how many classes of each image; None: five, or all of fewer.
            calibrated: probabilities as the model's temperature makes them, or as the network gives them.
            batch_size: images that are computed at once.
            num_workers: processes that decode files; None: from the CPUs this process may use.
        """
        if not isinstance(calibrated, bool):
            raise ConfigError(f"calibrated={calibrated}: expected True or False")
        found, single = listed(images)
        most = min(_MOST_NAMED, len(self.classes)) if topk is None else topk
        loading = {"batch_size": batch_size, "num_workers": num_workers}
        answers = predictions_of(self, found, topk=most, calibrated=calibrated, **loading)  # type: ignore[arg-type]
        predictions = Predictions(_all_readable(answers))
        return predictions[0] if single else predictions

    def logits(self, images: Images, *, batch_size: int = 32, num_workers: int | None = None) -> Tensor:
        """Compute the logits of images [N, num_classes], in single precision on the CPU."""
        return self._rows(images, self.network, batch_size, num_workers)

    def features(self, images: Images, *, batch_size: int = 32, num_workers: int | None = None) -> Tensor:
        """Compute the features of images [N, num_features], which the head takes; in single precision on the CPU."""
        return self._rows(images, self.network.features, batch_size, num_workers)

    def transform(self, image: ImageInput) -> Tensor:
        """Turn one image into the network's input, normalised [3, S, S]; [V, 3, S, S] for a model that averages."""
        [found], _ = listed([image])
        return Transform(self.description["preprocessing"])(decode_input(self.decoder, found).pixels)

    def _rows(
        self, images: Images, compute: Callable[[Tensor], Tensor], batch_size: int, num_workers: int | None
    ) -> Tensor:
        found, _ = listed(images)
        loading = {"batch_size": batch_size, "num_workers": num_workers}
        rows = results_of(self, found, compute, lambda outputs: outputs.float().cpu(), **loading)  # type: ignore[arg-type]
        return torch.stack(_all_readable(rows))


def _all_readable(results: Iterable[Result | BadImageError]) -> list[Result]:
    """Return the results of all images; raise an error that names each image without one."""
    found, bad = [], []
    for result in results:
        if isinstance(result, BadImageError):
            bad.append(result)
        else:
            found.append(result)
    if len(bad) == 1:
        raise bad[0]
    if bad:
        raise DataError(f"{len(bad)} images cannot be read:\n  " + capped(map(str, bad), separator="\n  "))
    return found
