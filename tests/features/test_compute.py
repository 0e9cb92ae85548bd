"""Features are computed once: what is in the store is not computed again, whatever ended the last attempt."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tlearn.errors import OutputError
from tlearn.features import compute as module
from tlearn.features.compute import compute
from tlearn.features.segments import KEY
from tlearn.features.store import Space

ITEMS = [(Path(f"{number}.jpg"), None) for number in range(10)]
KEYS = np.array([number.to_bytes(16, "big") for number in range(10)], KEY)


class Body:
    """Stands for an extractor: the features of picture n are [n, -n], three pictures a batch."""

    def __init__(self, fails_at: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.computed: list[int] = []
        self.closed = False
        self._fails_at, self._error = fails_at, error

    def __call__(self, items: Sequence[tuple[Path, None]]) -> Iterator[torch.Tensor]:
        try:
            for start in range(0, len(items), 3):
                numbers = [int(path.stem) for path, _ in list(items)[start : start + 3]]
                if self._fails_at in numbers:
                    raise self._error
                self.computed += numbers
                yield torch.tensor([[number, -number] for number in numbers], dtype=torch.float32)
        finally:
            self.closed = True


def obtain(space: Space, body: Body, count: int = 10, stop: bool = False) -> list[float]:
    rows = compute(space, ITEMS[:count], KEYS[:count], lambda: body, stop)
    return rows[torch.arange(count)][:, 0].tolist()


def test_features_come_in_the_order_of_the_pictures_and_are_computed_once(tmp_path):
    body, again = Body(), Body()
    assert obtain(Space(tmp_path, {}), body) == list(range(10))
    assert obtain(Space(tmp_path, {}), again) == list(range(10))
    assert (body.computed, again.computed) == (list(range(10)), [])


def test_a_complete_store_needs_no_extractor(tmp_path):
    obtain(Space(tmp_path, {}), Body())

    def never() -> Body:
        raise AssertionError("made for nothing")

    assert len(compute(Space(tmp_path, {}), ITEMS, KEYS, never)) == 10


def test_a_new_picture_costs_one_picture(tmp_path):
    obtain(Space(tmp_path, {}), Body(), count=9)
    body = Body()
    assert obtain(Space(tmp_path, {}), body) == list(range(10))
    assert body.computed == [9]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_an_interrupted_pass_goes_on_where_it_stopped(tmp_path, error):
    body, rest = Body(fails_at=7, error=error), Body()
    with pytest.raises(error):
        obtain(Space(tmp_path, {}), body)
    assert body.closed
    assert obtain(Space(tmp_path, {}), rest) == list(range(10))
    assert body.computed + rest.computed == list(range(10))


def test_a_pass_is_written_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SEGMENT_BYTES", 40)
    space = Space(tmp_path, {})
    obtain(space, Body())
    assert len(list(space.folder.glob("*.safetensors"))) > 1
    monkeypatch.setattr(module, "_SEGMENT_BYTES", 2**30)
    monkeypatch.setattr(module, "_SEGMENT_SECONDS", 0.0)
    slow = Space(tmp_path, {"other": 1})
    obtain(slow, Body())
    assert len(list(slow.folder.glob("*.safetensors"))) > 1


def test_what_cannot_be_written_stays_in_memory(tmp_path, monkeypatch, capsys):
    space, attempts = Space(tmp_path, {}), []

    def full(self: Space, keys: np.ndarray, features: torch.Tensor) -> None:
        attempts.append(len(keys))
        raise OutputError("cannot keep features in HERE: No space left on device")

    monkeypatch.setattr(Space, "add", full)
    monkeypatch.setattr(module, "_SEGMENT_BYTES", 40)
    assert obtain(space, Body()) == list(range(10))
    assert len(attempts) == 1
    assert capsys.readouterr().err.count("No space left on device: they stay in memory for this run") == 1


def test_a_full_disk_can_stop_the_run(tmp_path, monkeypatch):
    def full(self: Space, keys: np.ndarray, features: torch.Tensor) -> None:
        raise OutputError("No space left on device")

    monkeypatch.setattr(Space, "add", full)
    with pytest.raises(OutputError, match="No space left"):
        obtain(Space(tmp_path, {}), Body(), stop=True)


def test_what_another_run_removes_meanwhile_is_computed_in_memory(tmp_path, capsys):
    space = Space(tmp_path, {})
    obtain(space, Body(), count=5)

    class Removing(Body):
        def __call__(self, items: Sequence[tuple[Path, None]]) -> Iterator[torch.Tensor]:
            for segment in space.folder.glob("*.safetensors"):
                segment.unlink()
            return super().__call__(items)

    body = Removing()
    assert obtain(Space(tmp_path, {}), body) == list(range(10))
    assert sorted(body.computed) == list(range(10))
    assert "5 features" in capsys.readouterr().err


def test_a_loader_that_fails_is_not_taken_for_a_disk_that_does(tmp_path, capsys):
    bodies: list[Body] = []

    def failing() -> Body:
        bodies.append(Body(fails_at=7, error=OutputError))
        return bodies[-1]

    with pytest.raises(OutputError):
        compute(Space(tmp_path, {}), ITEMS, KEYS, failing)
    assert len(bodies) == 1
    assert capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_made_leaves_features_in_memory_or_stops(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    space = Space(tmp_path / "file", {})
    assert obtain(space, Body()) == list(range(10))
    assert "they stay in memory" in capsys.readouterr().err
    with pytest.raises(OutputError):
        obtain(Space(tmp_path / "file", {}), Body(), stop=True)


def test_what_another_process_did_meanwhile_is_not_done_again(tmp_path, monkeypatch):
    space, body = Space(tmp_path, {}), Body()
    find = space.find

    def find_nothing_at_first(keys: np.ndarray):
        monkeypatch.setattr(space, "find", find)
        answer = find(keys)
        obtain(Space(tmp_path, {}), Body())
        return answer

    monkeypatch.setattr(space, "find", find_nothing_at_first)
    assert obtain(space, body) == list(range(10))
    assert body.computed == []


def test_progress_is_shown(tmp_path, capsys):
    obtain(Space(tmp_path, {}), Body())
    assert "features: 10 images in" in capsys.readouterr().out
