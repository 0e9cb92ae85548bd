"""The loops that tlearn is compared with, each as its tutorial or library has it: a process prints one JSON line.

python benchmarks/baselines.py tutorial --data HYMENOPTERA --weights mobilenet_v2.pth --epochs 20 --seed 0

`self_seconds` is what the loop itself took, without the imports; `accuracies` are top-1 after each validation, `final`
the last and `best` the highest of them, which was chosen on the pictures that it is measured on.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def build(options: argparse.Namespace) -> Any:
    """Make a torchvision classifier with the weights of the file, or random ones."""
    import torch
    from torchvision.models import get_model

    network = get_model(options.backbone, weights=None)
    if options.weights is not None:
        network.load_state_dict(torch.load(options.weights, weights_only=True))
    return network


def last_linear(network: Any) -> tuple[str, Any]:
    """Find the classifier's last layer by name."""
    from torch import nn

    return [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]


def head_of(network: Any) -> Any:
    """Give the top-level module with the last layer: the classifier, which the body is everything but."""
    return network.get_submodule(last_linear(network)[0].split(".")[0])


def evaluation_transforms(resize: int) -> Any:
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.Resize(resize),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def training_transforms(*first: Any) -> Any:
    from torchvision import transforms

    return transforms.Compose(
        [
            *first,
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def pictures(options: argparse.Namespace, training: Any, resize: int) -> tuple[Any, Any]:
    """Give the pictures to train on and to validate on; ImageFolder leaves out what is no picture to it, as GIF."""
    from torchvision.datasets import ImageFolder

    held_out = next(name for name in ("val", "test") if (options.data / name).is_dir())
    return (
        ImageFolder(options.data / "train", training),
        ImageFolder(options.data / held_out, evaluation_transforms(resize)),
    )


def some(batches: Iterable, options: argparse.Namespace) -> Iterator:
    """Give the batches, or as many as --max-batches says, to see whether a loop runs at all."""
    return islice(batches, options.max_batches)


def workers(options: argparse.Namespace, default: int) -> int:
    return default if options.workers is None else options.workers


def tutorial(options: argparse.Namespace, body_eval: bool = False) -> dict[str, Any]:
    """PyTorch's transfer-learning tutorial with a fixed body: its BatchNorm goes on learning, as `.train()` has it."""
    import torch
    from torch import nn, optim
    from torch.optim.lr_scheduler import StepLR
    from torch.utils.data import DataLoader

    started = time.perf_counter()
    train, val = pictures(options, training_transforms(), 256)
    loaders = {
        "train": DataLoader(train, batch_size=4, shuffle=True, num_workers=workers(options, 4)),
        "val": DataLoader(val, batch_size=4, shuffle=True, num_workers=workers(options, 4)),
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = build(options)
    for parameter in network.parameters():
        parameter.requires_grad = False
    name, layer = last_linear(network)
    network.set_submodule(name, nn.Linear(layer.in_features, len(train.classes)))
    network = network.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(network.get_submodule(name).parameters(), lr=0.001, momentum=0.9)
    scheduler = StepLR(optimizer, step_size=7, gamma=0.1)
    accuracies: list[float] = []
    with TemporaryDirectory() as folder:
        kept = Path(folder) / "best.pt"
        torch.save(network.state_dict(), kept)
        for _ in range(options.epochs or 20):
            for phase in ("train", "val"):
                network.train(phase == "train")
                if phase == "train" and body_eval:
                    network.eval()
                    head_of(network).train()
                correct = seen = 0
                for inputs, labels in some(loaders[phase], options):
                    inputs, labels = inputs.to(device), labels.to(device)
                    optimizer.zero_grad()
                    with torch.set_grad_enabled(phase == "train"):
                        outputs = network(inputs)
                        loss = criterion(outputs, labels)
                        if phase == "train":
                            loss.backward()
                            optimizer.step()
                    # as in the tutorial, a number every step
                    loss.item()
                    correct += int((outputs.argmax(1) == labels).sum())
                    seen += len(labels)
                if phase == "train":
                    scheduler.step()
            if correct / seen > max(accuracies, default=0.0):
                torch.save(network.state_dict(), kept)
            accuracies.append(correct / seen)
            if options.stop_at is not None and accuracies[-1] >= options.stop_at:
                break
        network.load_state_dict(torch.load(kept, weights_only=True))
    return {"accuracies": accuracies, "self_seconds": time.perf_counter() - started}


def corrected(options: argparse.Namespace) -> dict[str, Any]:
    """The tutorial's loop with the body in eval mode as its only change."""
    return tutorial(options, body_eval=True)


def udacity(options: argparse.Namespace) -> dict[str, Any]:
    """Udacity's cats and dogs: one epoch, the whole test set every five steps, the body in train mode as written."""
    import torch
    from torch import nn, optim
    from torch.utils.data import DataLoader
    from torchvision import transforms

    started = time.perf_counter()
    train, test = pictures(options, training_transforms(transforms.RandomRotation(30)), 255)
    train_loader = DataLoader(train, batch_size=64, shuffle=True, num_workers=workers(options, 0))
    test_loader = DataLoader(test, batch_size=64, num_workers=workers(options, 0))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, head = udacity_network(options)
    network.to(device)
    criterion, optimizer = nn.NLLLoss(), optim.Adam(head.parameters(), lr=0.003)
    accuracies: list[float] = []
    steps = 0
    for _ in range(options.epochs or 1):
        for inputs, labels in some(train_loader, options):
            steps += 1
            inputs, labels = inputs.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = criterion(network(inputs), labels)
            loss.backward()
            optimizer.step()
            loss.item()
            if steps % options.every == 0:
                accuracies.append(measure(network, some(test_loader, options), criterion, device))
                network.train()
    return {"accuracies": accuracies, "self_seconds": time.perf_counter() - started, "steps": steps}


def udacity_network(options: argparse.Namespace) -> tuple[Any, Any]:
    """Replace the whole classifier by the course's: (network, head), the body frozen but in train mode."""
    from torch import nn

    network = build(options)
    for parameter in network.parameters():
        parameter.requires_grad = False
    top = last_linear(network)[0].split(".")[0]
    width = next(module.in_features for module in network.get_submodule(top).modules() if isinstance(module, nn.Linear))
    head = nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 2), nn.LogSoftmax(dim=1))
    network.set_submodule(top, head)
    return network, head


def measure(network: Any, batches: Iterable, criterion: Any, device: Any) -> float:
    """Give top-1 over the batches, as the course's validation does it, but with every picture counted once."""
    import torch

    network.eval()
    correct = seen = 0
    with torch.no_grad():
        for inputs, labels in batches:
            inputs, labels = inputs.to(device), labels.to(device)
            log_probabilities = network(inputs)
            criterion(log_probabilities, labels).item()
            probabilities = torch.exp(log_probabilities)
            correct += int((probabilities.topk(1, dim=1)[1].view(-1) == labels).sum())
            seen += len(labels)
    return correct / seen


def evaluation(options: argparse.Namespace) -> dict[str, Any]:
    """The course's validation pass alone, over all pictures below the folder: pictures a second, files to logits."""
    import torch
    from torch import nn
    from torch.utils.data import ConcatDataset, DataLoader
    from torchvision.datasets import ImageFolder

    folders = sorted(folder for folder in options.data.iterdir() if folder.is_dir())
    data = ConcatDataset([ImageFolder(folder, evaluation_transforms(255)) for folder in folders])
    loader = DataLoader(data, batch_size=64, num_workers=workers(options, 0))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, _ = udacity_network(options)
    network.to(device)
    started = time.perf_counter()
    score = measure(network, some(loader, options), nn.NLLLoss(), device)
    seconds = time.perf_counter() - started
    count = len(data) if options.max_batches is None else min(len(data), 64 * options.max_batches)
    # An untrained head: the accuracy only shows that pictures were counted.
    return {"untrained": score, "self_seconds": seconds, "pictures": count, "rate": count / seconds}


def lightning(options: argparse.Namespace) -> dict[str, Any]:
    """A plain Lightning module done well: body in eval mode and without a graph, Adam 1e-3, batch 32, 2 workers."""
    import torch
    from lightning import LightningModule, Trainer
    from torch import nn
    from torch.nn import functional as F
    from torch.utils.data import DataLoader

    class Probe(LightningModule):
        def __init__(self, network: nn.Module, name: str, layer: nn.Linear, classes: int) -> None:
            super().__init__()
            network.set_submodule(name, nn.Identity())
            self.body, self.head = network.requires_grad_(False), nn.Linear(layer.in_features, classes)
            self.accuracies: list[float] = []
            self.correct = self.seen = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.body.eval()
            with torch.no_grad():
                features = self.body(images)
            return self.head(features)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            images, targets = batch
            return F.cross_entropy(self(images), targets)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            images, targets = batch
            self.correct += int((self(images).argmax(1) == targets).sum())
            self.seen += len(targets)

        def on_validation_epoch_end(self) -> None:
            score, self.correct, self.seen = self.correct / self.seen, 0, 0
            self.accuracies.append(score)
            if options.stop_at is not None and score >= options.stop_at:
                self.trainer.should_stop = True

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.head.parameters(), lr=1e-3)

    started = time.perf_counter()
    train, val = pictures(options, training_transforms(), 256)
    network = build(options)
    module = Probe(network, *last_linear(network), len(train.classes))
    # Without what a short job does not need: all of it would only make this loop slower.
    trainer = Trainer(
        max_epochs=options.epochs or 5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_train_batches=options.max_batches or 1.0,
        limit_val_batches=options.max_batches or 1.0,
    )
    trainer.fit(
        module,
        DataLoader(train, batch_size=32, shuffle=True, num_workers=workers(options, 2)),
        DataLoader(val, batch_size=32, num_workers=workers(options, 2)),
    )
    return {"accuracies": module.accuracies, "self_seconds": time.perf_counter() - started}


def fastai(options: argparse.Namespace) -> dict[str, Any]:
    """A fastai learner with its own head, augmentation and schedule, the body frozen as `freeze()` does it."""
    try:
        from fastai.vision import all as vision
    except ImportError as error:
        raise SystemExit(f"fastai is missing ({error}): pip install -e '.[benchmarks]'") from error
    from torch import nn

    started = time.perf_counter()
    held_out = next(name for name in ("val", "test") if (options.data / name).is_dir())

    def items(folder: Path) -> list[Path]:
        # the pictures that ImageFolder takes
        paths = [path for path in vision.get_image_files(folder) if path.suffix.lower() != ".gif"]
        few = 64 * options.max_batches if options.max_batches else len(paths)
        return paths[:: max(1, len(paths) // few)]

    block = vision.DataBlock(
        blocks=(vision.ImageBlock, vision.CategoryBlock),
        get_items=items,
        splitter=vision.GrandparentSplitter("train", held_out),
        get_y=vision.parent_label,
        item_tfms=vision.RandomResizedCrop(224, min_scale=0.35),
        batch_tfms=[*vision.aug_transforms(), vision.Normalize.from_stats(*vision.imagenet_stats)],
    )
    loaders = block.dataloaders(options.data, bs=32, num_workers=workers(options, 2))
    network = build(options)
    _, layer = last_linear(network)
    body = nn.Sequential(*list(network.children())[:-1])
    learner = vision.Learner(
        loaders,
        vision.add_head(body, layer.in_features, loaders.c),
        loss_func=vision.CrossEntropyLossFlat(),
        metrics=vision.accuracy,
        splitter=lambda parts: vision.L(parts[0], parts[1]).map(vision.params),
    )
    learner.freeze()
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(options.epochs or 5, 3e-3)
    accuracies = [float(row[-1]) for row in learner.recorder.values]
    return {"accuracies": accuracies, "self_seconds": time.perf_counter() - started}


LOOPS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    loop.__name__: loop for loop in (tutorial, corrected, udacity, evaluation, lightning, fastai)
}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loop", choices=LOOPS)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and val/ or test/")
    parser.add_argument("--weights", type=Path, help="state dict file; without it, random weights")
    parser.add_argument("--backbone", default="mobilenet_v2", help="any of torchvision's classifiers")
    parser.add_argument("--epochs", type=int, help="default: what the loop's source has")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop-at", type=float, help="stop at this validation accuracy (corrected: 0.96)")
    parser.add_argument("--every", type=int, default=5, help="udacity: steps between validations")
    parser.add_argument("--workers", type=int, help="default: what the loop's source has")
    parser.add_argument("--max-batches", type=int, help="of every pass, to see whether a loop runs at all")
    options = parser.parse_args(arguments)
    if options.loop == "corrected" and options.stop_at is None:
        options.stop_at = 0.96
    import numpy as np
    import torch

    random.seed(options.seed)
    np.random.seed(options.seed)
    torch.manual_seed(options.seed)
    figures = LOOPS[options.loop](options)
    if accuracies := figures.get("accuracies"):
        figures |= {"final": accuracies[-1], "best": max(accuracies)}
    print(json.dumps({"loop": options.loop, "seed": options.seed, **figures}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
