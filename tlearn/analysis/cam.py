"""Class-activation maps by Grad-CAM."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from tlearn.analysis.drawing import Drawing, lettering, shown
from tlearn.models.network import TransferNetwork, evaluating


def class_activation_maps(network: TransferNetwork, images: Tensor, classes: Tensor | None = None) -> Tensor:
    """Compute class-activation maps of images, [N, S, S] from 0 to 1, with a maximum of 1 each.

    A map without positive evidence for the class is 0 everywhere. Maps come from the body's last feature map larger
    than 1x1, in eval mode; the network's modes are restored. Source: Selvaraju et al. 2017, Grad-CAM, arXiv:1610.02391.

    Args:
        images: normalised, [N, 3, S, S], on the network's device.
        classes: indices [N]; None: the predictions.

    Raises ValueError: the body has no such feature map, or goes on with tokens or channels-last maps from there.
    """
    kept: list[Tensor] = []

    def take_over(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        # Layers before it need no graph, and layers after it may change their input in place.
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()

    with evaluating(network), torch.inference_mode(False):
        # Tensors made in inference mode cannot be part of a graph.
        images, classes = images.clone(), None if classes is None else classes.clone()
        handle = network.body.get_submodule(_last_map(network.body, images[:1])).register_forward_hook(take_over)
        with _removing([handle]), torch.enable_grad():
            logits = network.head(network.body(images))
            wanted = logits.argmax(1) if classes is None else classes
            [gradients] = torch.autograd.grad(logits.gather(1, wanted[:, None]).sum(), kept[-1:])
        with torch.no_grad():
            maps = (gradients.mean((2, 3), keepdim=True) * kept[-1]).sum(1, keepdim=True).relu().float()
            maps = F.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
            highest = maps.amax((1, 2), keepdim=True)
            return maps / highest.where(highest > 0, 1.0)


def _last_map(body: nn.Module, image: Tensor) -> str:
    """Return the name of the module of the body that computes the last feature map [1, C, H, W] larger than 1x1.

    Not only leaf modules: some modules join the outputs of several branches.
    """
    last, after = None, ""
    for name, shape in _shapes(body, image):
        # Maps of square images are square; channels-last maps are not.
        square = len(shape) == 4 and shape[2] == shape[3]
        if square and shape[2] > 1:
            last, after = name, ""
        elif len(shape) == 3 or (len(shape) == 4 and not square):
            after = after or f"{name} gives {list(shape)}"
    if last is None:
        raise ValueError("the body has no feature map [N, channels, height, width] with more than one place")
    if after:
        raise ValueError(
            f"the body's last feature map comes from {last}, and behind it are tokens or channels-last maps ({after}): "
            "a map of that place would say nothing of what the network sees"
        )
    return last


@torch.no_grad()
def _shapes(body: nn.Module, image: Tensor) -> list[tuple[str, tuple[int, ...]]]:
    """List the modules of the body in the order in which they finish, with the shapes of their outputs."""
    found = []

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                found.append((name, tuple(output.shape)))

        return hook

    with _removing([part.register_forward_hook(note(name)) for name, part in body.named_modules() if name]):
        body(image)
    return found


@contextmanager
def _removing(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def cam_figure(images: Sequence[Tensor], maps: Tensor, titles: Sequence[str], columns: int = 3) -> Figure:
    """Draw each image beside its overlay with the map.

    Args:
        images: uint8 [3, S, S] each.
        maps: [N, S, S] from 0 to 1.
        titles: one line per image.
        columns: pairs per row.
    """
    columns = max(1, min(columns, len(images)))
    rows = max(1, -(-len(images) // columns))
    figure = Drawing(figsize=(3.4 * columns, 1.95 * rows), layout="constrained")
    grid = figure.subplots(rows, 2 * columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    pairs = grid.reshape(rows * columns, 2)
    for (plain, overlaid), image, values, title in zip(pairs, images, maps, titles, strict=False):
        pixels = image.permute(1, 2, 0).cpu().numpy()
        plain.imshow(pixels)
        overlaid.imshow(pixels)
        overlaid.imshow(values.cpu().numpy(), cmap="turbo", vmin=0, vmax=1, alpha=0.5)
        plain.set_title(shown(title), loc="left", **lettering(7))
    return figure
