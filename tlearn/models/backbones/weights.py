"""Read weights files as plain tensors only, and load them into a body."""

import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Collection, Mapping, MutableMapping
from itertools import chain
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from tlearn.errors import CheckpointError, ConfigError
from tlearn.models.digests import check_claims, check_safetensors

ENDINGS = (".pth", ".pt", ".safetensors")


def weights_path(weights: str | None) -> Path | None:
    """Return the file that `weights` names by its ending, or None for a name.

    Raises CheckpointError if it is missing, ConfigError for a path that has no ending of weights.
    """
    if weights is None or not weights.lower().endswith(ENDINGS):
        if weights is not None and (os.path.dirname(weights) or os.path.splitext(weights)[1]):
            raise ConfigError(f"backbone.weights={weights}: files of weights end in {', '.join(ENDINGS)}")
        return None
    path = Path(os.path.expanduser(weights))
    if not os.path.isfile(path):
        raise CheckpointError(f"there is no weights file {path.absolute()}; set backbone.weights to one that exists")
    return path


def sha256_of(path: Path) -> str:
    """Hash a file; CheckpointError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path.absolute()} cannot be read: {error.strerror}") from error


def read_state_dict(path: Path) -> OrderedDict[str, Tensor]:
    """Read the state dict in a file, bare or under "state_dict" or "model", without a leading "module.".

    Of a model folder's file, the body.

    Raises CheckpointError for a file that is damaged, holds anything but tensors, or would run code.
    """
    content = _read(path)
    if isinstance(content, Mapping):
        content = next(
            (content[key] for key in ("state_dict", "model") if isinstance(content.get(key), Mapping)), content
        )
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"{path.absolute()} holds no state dict; save one with torch.save(model.state_dict(), path)"
        )
    wrong = [str(key) for key, value in content.items() if not (isinstance(key, str) and _is_plain(value))]
    if wrong:
        raise CheckpointError(f"{path.absolute()} holds no state dict: {', '.join(wrong[:3])} are not plain tensors")
    state = content if isinstance(content, OrderedDict) else OrderedDict(content)
    versions = getattr(state, "_metadata", {})
    if not isinstance(versions, Mapping) or not all(isinstance(key, str) for key in versions):
        raise CheckpointError(f"{path.absolute()} holds no state dict: the versions of its layers are damaged")
    if twice := [key for key in state if f"module.{key}" in state]:
        raise CheckpointError(
            f"{path.absolute()} holds two state dicts: {twice[0]} and module.{twice[0]} are both there"
        )
    consume_prefix_in_state_dict_if_present(state, "module.")
    body = OrderedDict((key.removeprefix("body."), value) for key, value in state.items() if key.startswith("body."))
    # A model that tlearn has saved: its body is a backbone's weights, its head is not.
    return body if body and all(key.startswith(("body.", "head.")) for key in state) else state


def load_body(
    body: nn.Module, state: MutableMapping[str, Tensor], *, removed: Collection[str], path: Path, name: str
) -> None:
    """Load a state dict into a body, on the meta device or not, as float32 memory of its own; empty the dict.

    Keys under the top-level parts `removed` belong to the file's own classifier and are left out unless the body has
    them too. Raises CheckpointError when the rest is not exactly the body of the backbone `name`.
    """
    own, first = body.state_dict(), list(state)[:3]
    # Without a version each layer looks for its own old keys, but MNASNet's root refuses to guess.
    metadata = getattr(state, "_metadata", None) or {"": own._metadata[""]}  # type: ignore[attr-defined]
    owned: OrderedDict[str, Tensor] = OrderedDict()
    for key in list(state):
        value = state.pop(key)
        if key in own or key.split(".")[0] not in removed:
            owned[key] = _own(value)
    owned._metadata = metadata  # type: ignore[attr-defined]
    problems = _load(body, owned)
    if problems:
        shown = "".join(f"\n  {line}" for line in problems[:3])
        more = f"\n  and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{path.absolute()} is not a {name} state dict; it starts with {', '.join(first)}{shown}{more}"
        )
    left = [key for key, value in chain(body.named_parameters(), body.named_buffers()) if value.is_meta]
    if left:
        raise RuntimeError(f"{name} computes tensors that no state dict holds: {', '.join(left[:3])}")
    spoilt = [key for key, value in body.state_dict().items() if value.is_floating_point() and value.isnan().any()]
    if spoilt:
        hint = "take other weights, or head.replace=classifier if these come without a classifier"
        raise CheckpointError(f"{path.absolute()} has NaN in {', '.join(spoilt[:3])}: {hint}")


def _load(body: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    shapes = {key: value.shape for key, value in body.state_dict().items()}
    try:
        result = body.load_state_dict(state, strict=False, assign=True)
    # Layers that read an odd version in the file's metadata raise errors of many kinds.
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines()]
        return lines[1:] or lines
    problems = [f"{key} is missing" for key in result.missing_keys]
    problems += [f"{key} is unexpected" for key in result.unexpected_keys]
    # The first version of MNASNet changes the body to fit its file, and then nothing could load the body again.
    changed = [key for key, value in body.state_dict().items() if shapes.get(key) != value.shape]
    return problems + [f"{key} has the shape of an older version" for key in changed]


def _read(path: Path) -> Any:
    try:
        if path.suffix.lower() == ".safetensors":
            check_safetensors(path)
            return safetensors.torch.load_file(path)
        with path.open("rb") as file:
            check_claims(file, path)
            return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path.absolute()} cannot be read: {error.strerror or error}") from error
    # Damaged bytes make the readers raise a dozen types.
    except Exception as error:
        raise CheckpointError(f"{path.absolute()} {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    found = re.search(r"GLOBAL (\S+)", str(error))
    if found:
        return f"refused: it holds code or objects ({found[1]}), and only tensors are read; save model.state_dict()"
    with path.open("rb") as file:
        pickled = file.read(1) in (b"P", b"\x80")
    # Opcodes that torch.save never writes, in a pickle or a zip archive of one.
    if pickled and "Unsupported operand" in str(error):
        return "refused: it is damaged or a pickle that could run code; make it with torch.save(model.state_dict())"
    return "is damaged or not a weights file (expected what torch.save or safetensors wrote)"


def _is_plain(value: object) -> bool:
    if not isinstance(value, Tensor):
        return False
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    return plain and is_held(value)


def is_held(tensor: Tensor) -> bool:
    """Return whether a tensor has memory for each of its numbers: a few bytes can claim any number of them."""
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _own(tensor: Tensor) -> Tensor:
    """Copy a tensor: in a file they can overlap, lie in read-only memory, or be of half precision."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=dtype, device="cpu").copy_(tensor.detach())
