"""R8: files and run folders of somebody who means harm. Nothing of theirs runs, and nothing outside is touched."""

import json
import os
import pickle
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from reliability_parts.mutations import HangsError, in_time
from reliability_parts.row import Options, Outcome, Row
from reliability_parts.small_run import by_command, trained
from tlearn.archive import extract
from tlearn.models.backbones.weights import read_state_dict
from tlearn.models.digests import sealing_zip, with_digest
from tlearn.runs.model import load_model
from tlearn.training.checkpoints import CheckpointIO

ROW = Row(
    "R8",
    "hostile files that ran code or touched a file outside",
    "Pickles that run code, whole, nested, in objects and beside tensors, with a right digest, as weights, checkpoint "
    "and resumed run; archives whose members leave; stored runs and models that name code, a folder of options, a "
    "working folder, a place to write to, or a file outside as a checkpoint. A canary tells what ran or was touched.",
)
TARGETS = ("os.system", "subprocess.call", "builtins.exec", "torch.load", "torch.hub.load", "pathlib.Path.write_text")
MEMBERS = ("../canary", "a/../../canary", "/tmp/canary_of_tlearn", "..\\canary", "C:\\canary", "a/\0/../canary")
# What is tried, given the folder of the case; a refusal and a result are both good
Attempt = Callable[[Path], Any]


class Runs:
    """Pickled, it makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.canary}'",)


class RunsModule(nn.Module):
    """A layer that makes the canary."""

    def __init__(self, canary: Path) -> None:
        super().__init__()
        self.more = Runs(canary)


def run(options: Options) -> Iterator[Outcome]:
    """Try each attempt in a folder of its own, beside a canary that must not appear and a file that must stay."""
    made = trained(options.folder / "made")
    attempts = {**of_pickles(made), **of_archives(), **of_models(made), **of_runs(made)}
    for name, attempt in attempts.items():
        if not options.wants(name):
            continue
        folder = options.folder / "case"
        (folder / "inside").mkdir(parents=True)
        (folder / "precious").write_text("mine")
        yield Outcome(name, harm(attempt, folder), name.partition(":")[0])
        shutil.rmtree(folder)


def harm(attempt: Attempt, folder: Path) -> str:
    """Return the harm that was done."""
    try:
        with in_time(120):
            attempt(folder)
    except HangsError:
        return "no end within 120 s"
    except Exception as error:
        if type(error).__module__ != "tlearn.errors":
            return f"a trace, {type(error).__name__}: {error}"
    canaries = [*folder.rglob("canary*"), *Path("/tmp").glob("canary_of_tlearn*"), *Path.cwd().glob("canary*")]
    if canaries:
        return f"{canaries[0]} was made"
    if not (folder / "precious").is_file() or (folder / "precious").read_text() != "mine":
        return "a file outside was touched"
    more = sorted(one.name for one in folder.iterdir() if one.name not in ("inside", "precious", "theirs"))
    return f"{more} lie outside" if more else ""


def of_pickles(made: Path) -> dict[str, Attempt]:
    """Return attempts with pickles."""
    checkpoint = torch.load(made / "checkpoints" / "last.ckpt", weights_only=True)

    def contents(canary: Path) -> dict[str, Any]:
        return {
            "whole": Runs(canary),
            "beside tensors": {"a": torch.zeros(1), "b": Runs(canary)},
            "nested": {"a": [{"b": ({"c": Runs(canary)},)}]},
            "module": RunsModule(canary),
            "checkpoint": checkpoint | {"hyper_parameters": Runs(canary)},
            "callbacks": checkpoint | {"callbacks": {"x": Runs(canary)}},
        }

    def attempt(name: str, reader: str) -> Attempt:
        def tried(folder: Path) -> Any:
            content = contents(folder / "canary")[name]
            path = folder / "inside" / ("w.pth" if reader == "weights" else "last.ckpt")
            if reader == "resume":
                shutil.copytree(made, folder / "inside" / "run")
                path = folder / "inside" / "run" / "checkpoints" / "last.ckpt"
            with path.open("w+b") as file, sealing_zip(file) as sealed:
                torch.save(content, sealed)
            if reader == "weights":
                return read_state_dict(path)
            if reader == "plain pickle":
                path.write_bytes(pickle.dumps(content))
            return resumed(path.parents[1]) if reader == "resume" else CheckpointIO(path.parent).load_checkpoint(path)

        return tried

    names = contents(Path())
    readers = ("weights", "checkpoint", "resume", "plain pickle")
    return {f"pickles: {name} as {reader}": attempt(name, reader) for name in names for reader in readers}


def of_archives() -> dict[str, Attempt]:
    """Return attempts with archives."""

    def attempt(kind: str, member: str, link: int | None) -> Attempt:
        def tried(folder: Path) -> Any:
            path = folder / "theirs"
            if kind == "zip":
                with zipfile.ZipFile(path, "w") as archive:
                    info = zipfile.ZipInfo("in/link" if link else member.replace("\0", "\1"))
                    info.create_system, info.external_attr = 3, (link or stat.S_IFREG | 0o644) << 16
                    archive.writestr(info, "../../precious" if link else "theirs")
            else:
                with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
                    info_of = tarfile.TarInfo("in/link" if link else member.replace("\0", "\1"))
                    if link:
                        info_of.type, info_of.linkname = tarfile.SYMTYPE, member
                    tar.addfile(info_of)
            return extract(path, folder / "inside" / "out")

        return tried

    tried = {
        f"archives: {member!r} in a {kind}": attempt(kind, member, None)
        for member in MEMBERS
        for kind in ("zip", "tar")
    }
    for link in ("../../precious", "/etc/passwd", "../../../canary"):
        tried[f"archives: a link to {link} in a tar"] = attempt("tar", link, 1)
    for mode in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR):
        tried[f"archives: mode {mode:o} in a zip"] = attempt("zip", "", mode | 0o777)
    return tried


def of_models(made: Path) -> dict[str, Attempt]:
    """Return attempts with model folders that name code."""

    def attempt(place: str, target: str, trust: list[str]) -> Attempt:
        def tried(folder: Path) -> Any:
            model = folder / "inside" / "model"
            shutil.copytree(made / "model", model)
            description = json.loads((model / "model.json").read_text())
            del description["digest"]
            node = {"_target_": target, "command": f"touch '{folder / 'canary'}'"}
            description[place] = {**description[place], **node} if place == "head" else node
            (model / "model.json").write_text(json.dumps(with_digest(description)))
            return load_model(model, trust=trust)

        return tried

    return {
        f"models: {target} as {place}, {'trusted' if trust else 'not trusted'}": attempt(place, target, trust)
        for target in TARGETS
        for place in ("head", "architecture")
        for trust in ([], [target.partition(".")[0]])
    }


def of_runs(made: Path) -> dict[str, Attempt]:
    """Return attempts with run folders that are resumed."""

    def attempt(change: Callable[[Path, Path], Any], *given: str) -> Attempt:
        def tried(folder: Path) -> Any:
            run = folder / "inside" / "run"
            shutil.copytree(made, run)
            change(run, folder)
            return resumed(run, *given)

        return tried

    def stored(*arguments: str) -> Callable[[Path, Path], Any]:
        def change(run: Path, folder: Path) -> None:
            path = run / ".hydra" / "overrides.yaml"
            told = [one.replace("FOLDER", str(folder)) for one in arguments]
            path.write_text(OmegaConf.to_yaml(OmegaConf.create([*OmegaConf.load(path), *told])))

        return change

    def runtime(run: Path, **values: Any) -> None:
        path = run / ".hydra" / "hydra.yaml"
        content = OmegaConf.load(path)
        for key, value in values.items():
            OmegaConf.update(content, f"hydra.runtime.{key}", value)
        path.write_text(OmegaConf.to_yaml(content))

    def options(run: Path, folder: Path) -> None:
        theirs = folder / "theirs" / "optimizer"
        theirs.mkdir(parents=True)
        (theirs / "adam.yaml").write_text(f"_target_: os.system\ncommand: touch '{folder / 'canary'}'\n")
        runtime(run, config_sources=[{"path": str(theirs.parent), "schema": "file", "provider": "command-line"}])

    def working(run: Path, folder: Path) -> None:
        theirs = folder / "theirs" / "tlearn"
        theirs.mkdir(parents=True)
        (theirs / "__init__.py").write_text(f"open({str(folder / 'canary')!r}, 'w')\n")
        for name in ("sitecustomize", "torch", "lightning", "conf"):
            shutil.copy(theirs / "__init__.py", theirs.parent / f"{name}.py")
        runtime(run, cwd=str(theirs.parent))

    def best(named: str) -> Callable[[Path, Path], Any]:
        def change(run: Path, folder: Path) -> None:
            path = run / "checkpoints" / "last.ckpt"
            content = torch.load(path, weights_only=True)
            for state in content["callbacks"].values():
                if isinstance(state, dict) and "best_k_models" in state:
                    where = named.replace("FOLDER", str(folder))
                    state["best_k_models"] = {where: torch.tensor(99.0)}
                    state |= {"kth_best_model_path": where, "kth_value": torch.tensor(99.0), "best_model_path": where}
            with path.open("w+b") as file, sealing_zip(file) as sealed:
                torch.save(content, sealed)

        return change

    longer = "trainer.max_epochs=3"
    tried = {
        f"runs: a best checkpoint {path}": attempt(best(path), longer) for path in ("../../precious", "FOLDER/precious")
    }
    for target in TARGETS:
        for key in ("optimizer", "loss", "+callbacks.mine", "head.build", "+extra.note"):
            told = f"{key}={{_target_: {target}, command: \"touch 'FOLDER/canary'\"}}"
            tried[f"runs: {target} as {key}"] = attempt(stored(told), longer)
    for place in (
        "callbacks.checkpoint.dirpath",
        "callbacks.last.dirpath",
        "trainer.default_root_dir",
        "paths.output_dir",
    ):
        tried[f"runs: {place} outside"] = attempt(stored(f"{place}=FOLDER/outside"), longer)
    tried["runs: a folder of options"] = attempt(options, longer)
    tried["runs: a working folder"] = attempt(working, longer)
    tried["runs: a working folder, two processes"] = attempt(working, longer, "trainer=ddp_cpu", "trainer.devices=2")
    return tried


def resumed(run: Path, *given: str) -> None:
    """Resume a run; a trace is an error."""
    status, said = by_command(f"resume={run}", *given)
    if status == 1 or "Traceback" in said:
        raise RuntimeError(said[-500:])
