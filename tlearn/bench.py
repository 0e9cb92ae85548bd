"""Time training steps of a network on every device: python -m tlearn.bench backbone=resnet18."""

from omegaconf import DictConfig

from tlearn.config.command import program


def bench(config: DictConfig) -> dict[str, float]:
    """Print and write the seconds of forward, backward and step for the configured network, or print the network."""
    # Imported here: torch takes seconds to load, and help and configuration errors must not wait.
    from lightning import seed_everything

    from tlearn.config import build, seats
    from tlearn.config.tree import plain
    from tlearn.console import answer, say, session
    from tlearn.display import print_table
    from tlearn.machine import environment
    from tlearn.runs.folder import RunFolder
    from tlearn.training.timing import batch_shapes, devices, time_steps

    run = RunFolder(config.paths.output_dir)
    with run.claimed(), session(run.path / "bench.log", quiet=config.quiet):
        seed_everything(config.seed, workers=True, verbose=False)
        found, optimizer, settings = devices(config.device), build.step_optimizer(config), plain(config)
        size = config.size or seats.backbone(config.backbone).preprocessing()["size"]
        backbone = seats.backbone(config.backbone, pretrained=False)
        network = build.network(backbone, config.num_classes, settings["head"], settings["finetune"], config.seed, size)
        shapes = batch_shapes(network, config.data.batch_size, size)
        say(" -> ".join(f"{name} {shape}" for name, shape in shapes.items()))
        total, trainable = network.count_parameters()
        metrics: dict[str, float] = {"params/total": total, "params/trainable": trainable}
        if config.show is not None:
            say({"body": network.body, "head": network.head, "network": network}[config.show])
        else:
            rows = []
            for device, name in found.items():
                times = time_steps(network, optimizer, shapes, device, config.batches, config.warmup)
                metrics |= {f"{device}/{key}": value for key, value in times.items()}
                rows.append([name, *(f"{value:.{1 if 'images' in key else 4}f}" for key, value in times.items())])
            heads = ["forward s", "backward s", "step s", "total s", "images/s", "peak GB"]
            print_table(["medians of a batch", *heads[: len(rows[0]) - 1]], rows)
        run.write_json("metrics.json", metrics)
        run.write_json("environment.json", environment())
        answer(run.path)
    return metrics


main, script = program("bench", bench)

if __name__ == "__main__":
    script()
