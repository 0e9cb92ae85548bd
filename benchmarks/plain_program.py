"""A plain Lightning and Hydra program, as many are written: what reliability.py tries beside tlearn.

python benchmarks/plain_program.py data=FOLDER hydra.run.dir=RUN [resume=RUN/checkpoints/last.ckpt]
"""

from dataclasses import dataclass
from pathlib import Path

import hydra
import lightning
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader
from torchvision import datasets, transforms


@dataclass
class Config:
    data: str = "???"
    lr: float = 0.01
    epochs: int = 3
    batch_size: int = 4
    workers: int = 0
    seed: int = 0
    resume: str | None = None


class Classifier(lightning.LightningModule):
    def __init__(self, classes: int, lr: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        body = [torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
        self.network = torch.nn.Sequential(
            *body, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(8, classes)
        )

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.network(images), labels)

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        logits = self.network(images)
        self.log("val_loss", torch.nn.functional.cross_entropy(logits, labels))
        self.log("val_acc", (logits.argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


ConfigStore.instance().store(name="plain", node=Config)


@hydra.main(version_base="1.3", config_path=None, config_name="plain")
def main(config: Config) -> float:
    lightning.seed_everything(config.seed, workers=True)
    run, root = Path(HydraConfig.get().runtime.output_dir), Path(config.data)
    augment = [transforms.RandomResizedCrop(32), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    train = datasets.ImageFolder(root / "train", transforms.Compose(augment))
    val = datasets.ImageFolder(root / "val", transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()]))
    options = {"batch_size": config.batch_size, "num_workers": config.workers}
    checkpoint = ModelCheckpoint(run / "checkpoints", "best", monitor="val_loss", save_last=True)
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=config.epochs, callbacks=[checkpoint], logger=CSVLogger(run, "", ""),
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    module = Classifier(len(train.classes), config.lr)
    loaders = DataLoader(train, shuffle=True, **options), DataLoader(val, **options)
    trainer.fit(module, *loaders, ckpt_path=config.resume)
    return float(trainer.callback_metrics["val_acc"])


if __name__ == "__main__":
    main()
