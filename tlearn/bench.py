"""Time training steps of a network on every device: python -m tlearn.bench backbone=resnet18."""

from omegaconf import DictConfig

from tlearn.config.command import program


def bench(config: DictConfig) -> dict[str, float]:
    """Print and write the seconds of forward, backward and step for the configured network, or print the network."""
    # Imported here: torch takes seconds to load, and help and configuration errors must not wait.
    from lightning import seed_everything

    from tlearn.config import build, seats
    from tlearn.config.tree import settings_of
    from tlearn.console import answer, say, session
    from tlearn.display import print_table
    from tlearn.machine import environment
    from tlearn.models.device import float32
    from tlearn.runs.folder import RunFolder
    from tlearn.training.timing import batch_shapes, devices, time_steps

    settings = settings_of(config)
    run = RunFolder(settings["paths"]["output_dir"])
    with run.claimed(), session(run.path / "bench.log", quiet=settings["quiet"]), float32():
        seed_everything(settings["seed"], workers=True, verbose=False)
        found, optimizer = devices(settings["device"]), build.step_optimizer(settings)
        size = settings["size"] or seats.backbone(settings["backbone"]).preprocessing()["size"]
        backbone = seats.backbone(settings["backbone"], pretrained=False)
        network = build.network(settings, backbone, settings["num_classes"], size)
        shapes = batch_shapes(network, settings["data"]["batch_size"], size)
        say(" -> ".join(f"{name} {shape}" for name, shape in shapes.items()))
        metrics: dict[str, float] = {**network.sizes()}
        if settings["show"] is not None:
            say({"body": network.body, "head": network.head, "network": network}[settings["show"]])
        else:
            rows = []
            for device, name in found.items():
                times = time_steps(network, optimizer, shapes, device, settings["batches"], settings["warmup"])
                metrics |= {f"{device}/{key}": value for key, value in times.items()}
                rows.append([name, *(f"{value:.{1 if 'images' in key else 4}f}" for key, value in times.items())])
            columns = ["medians of a batch", "forward s", "backward s", "step s", "total s", "images/s", "peak GB"]
            # Not every system tells what memory a process took.
            print_table(columns, [[*row, *[""] * (len(columns) - len(row))] for row in rows])
        run.write_json("metrics.json", metrics)
        run.write_json("environment.json", environment())
        answer(run.path)
    return metrics


main, script = program("bench", bench)

if __name__ == "__main__":
    script()
