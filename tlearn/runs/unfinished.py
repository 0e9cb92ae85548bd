"""The answers of a prediction until its table is written, in a file beside it from which a killed one goes on."""

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from tlearn.console import say, warn
from tlearn.data.file_state import file_state
from tlearn.errors import BadImageError, OutputError
from tlearn.files import is_stream, named
from tlearn.locks import open_locked
from tlearn.runs.predictions import Prediction

# The ending of the file, and how it begins
_ENDING, _BEGINNING = ".partial", b"tlearn prediction "
# Bytes of the table's name in that of the file: systems take 255.
_NAMED = 240
_DIGEST = 16

Answer = Prediction | BadImageError
Predict = Callable[[Sequence[Path]], Iterator[Answer]]
Answers = Callable[[Sequence[Path], Callable[[], Mapping[str, Any] | None], int, Predict], Iterator[Answer]]


class Unfinished:
    """Answers to images in their order, in a file that one process at a time may hold.

    Its first line is the key: what answers depend on beside the images. Each other line has the answers to a batch,
    after a digest of them and of the paths, sizes and modification times of its images. Answers are taken over up to
    the first batch that differs, so that all batches are those of a prediction without interruption.

    Args:
        output: the table.

    Raises:
        OutputError: it cannot be written, another process writes it, a file of another kind has the file's name, or
            there are no locks, which its cause tells.
    """

    def __init__(self, output: Path) -> None:
        self.output, self.path = output, _place(output)
        # Images that have answers, of all
        self.done, self.count = 0, 0
        # Whether the next prediction can tell that they are its own
        self.is_known = True
        with named(output):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.file = open_locked(self.path)
            except BlockingIOError as error:
                raise OutputError(f"another process writes {output}: wait for it, or choose another output") from error
            with self._opened() as file:
                start = file.read(len(_BEGINNING))
        self.is_empty = not start
        if not _BEGINNING.startswith(start):
            self.file.close()
            raise OutputError(f"{self.path} is not an unfinished prediction: choose another output, or move it")

    def answers(
        self,
        images: Sequence[Path],
        key: Callable[[], Mapping[str, Any] | None],
        batch_size: int,
        predict: Predict,
    ) -> Iterator[Answer]:
        """Predict the images that have no answer yet, and then yield the answers to all.

        Args:
            images: all of them.
            key: returns what answers depend on beside them; None if that cannot be known, and nothing be taken over.
            batch_size: of the prediction.
            predict: images -> an answer to each.
        """
        known, self.count, states = key(), len(images), _states(images, batch_size)
        self.is_known, first = known is not None, _BEGINNING + _json(known) + b"\n"
        end: int | None = self._taken_over(first, states, images, predict) if self.is_known else 0
        fresh = predict(images[self.done :])
        while batch := list(islice(fresh, batch_size)):
            if end is not None:
                # Not before: what is refused takes nothing of what was there.
                self.file.truncate(end)
                if not end:
                    self._add(first)
                self.is_empty, end = not end, None
            content = [one.reason if isinstance(one, BadImageError) else one.best for one in batch]
            self._add(_line(states[self.done // batch_size], _json(content)))
            self.done, self.is_empty = self.done + len(batch), False
        stored = (answer for answers, _ in self._batches(first, states) for answer in answers)
        for image, answer in zip(images, stored, strict=True):
            if isinstance(answer, str):
                yield BadImageError(image, answer)
            else:
                yield Prediction(image, [(name, share) for name, share in answer])

    def _taken_over(self, first: bytes, states: Sequence[bytes], images: Sequence[Path], predict: Predict) -> int:
        """Return where the answers end that count, and say how many those are, or why none does."""
        end, bad = 0, list[tuple[Path, int, int]]()
        for answers, place in self._batches(first, states):
            bad += [(images[self.done + n], self.done, end) for n, one in enumerate(answers) if isinstance(one, str)]
            self.done, end = self.done + len(answers), place
        # What a machine could not read then, it may read now, where only rights have changed, say.
        for again, (_, before, start) in zip(predict([image for image, _, _ in bad]) if bad else (), bad, strict=True):
            if not isinstance(again, BadImageError):
                self.done, end = before, start
                break
        with self._opened() as file:
            line = file.readline()
            file.seek(end or len(line))
            others = file.readline().endswith(b"\n")
        if self.done:
            rest = "; the next were others, or are damaged" if others and self.done < self.count else ""
            say(f"taken over: {self.done:,} of {self.count:,} images from an unfinished prediction{rest}")
        elif others:
            say(f"begun anew, not taken over from {self.path}: {_difference(line, first)}")
        return end

    def _batches(self, first: bytes, states: Sequence[bytes]) -> Iterator[tuple[list[Any], int]]:
        """Yield the answers to each batch as long as they count, and where they end."""
        with self._opened() as file:
            if file.readline() != first:
                return
            for state in states:
                line = file.readline()
                text = line[2 * _DIGEST + 1 : -1]
                if line != _line(state, text):
                    return
                yield json.loads(text), file.tell()

    def _opened(self) -> Any:
        """Open the file to read it from its start, with a buffer, which the lock's must not have."""
        file = os.fdopen(os.dup(self.file.fileno()), "rb")
        file.seek(0)
        return file

    def _add(self, content: bytes) -> None:
        with named(self.output):
            while content:
                content = content[self.file.write(content) :]

    def leave(self) -> None:
        """Leave the file to the next prediction, if there is something in it."""
        if self.done and self.is_known:
            warn(f"{self.done:,} of {self.count:,} images are kept in {self.path}: the same command goes on with them")
        if self.is_empty or not self.is_known:
            self.remove()
        else:
            self.file.close()

    def remove(self) -> None:
        """Remove the file."""
        # While it is locked, so that it is not another's by then; Windows removes no open file.
        for step in (self.path.unlink, self.file.close) if os.name != "nt" else (self.file.close, self.path.unlink):
            with suppress(OSError):
                step()


@contextmanager
def unfinished(output: Path) -> Iterator[Answers]:
    """Yield what answers as `Unfinished.answers` does; its file goes with the block, and stays where that fails.

    An output that is not a file, or lies where files have no locks, has none.
    """
    try:
        held = None if is_stream(output) else Unfinished(output)
    except OutputError as error:
        if getattr(error.__cause__, "errno", None) != errno.ENOLCK:
            raise
        held = None
        with suppress(OSError):
            if not _place(output).stat().st_size:
                _place(output).unlink()
    try:
        yield held.answers if held else lambda images, key, batch_size, predict: predict(images)
    except BaseException:
        if held:
            held.leave()
        raise
    if held:
        held.remove()


def _place(output: Path) -> Path:
    """Return the path of the file of answers."""
    target = Path(os.path.realpath(output))
    return target.with_name(os.fsdecode(os.fsencode(target.name)[:_NAMED]) + _ENDING)


def _line(state: bytes, text: bytes) -> bytes:
    return blake2b(state + text, digest_size=_DIGEST).hexdigest().encode() + b" " + text + b"\n"


def _states(images: Sequence[Path], batch_size: int) -> list[bytes]:
    """Hash paths, sizes and modification times of the images of each batch, before any is decoded."""
    paths, found = iter(images), []
    while batch := list(islice(paths, batch_size)):
        digest = blake2b(digest_size=_DIGEST)
        for path in batch:
            state = file_state(path)
            digest.update(os.fsencode(path) + repr(state and state[1:]).encode() + b"\0")
        found.append(digest.digest())
    return found


def _json(content: Any) -> bytes:
    return json.dumps(content).encode()


def _difference(line: bytes, first: bytes) -> str:
    """Say in which parts of the key two first lines differ."""
    try:
        key, before = (json.loads(text.removeprefix(_BEGINNING)) for text in (first, line))
        other = [name for name, value in key.items() if before.get(name) != value]
    except (ValueError, AttributeError):
        return "it is damaged"
    return f"not the same {', '.join(other) or 'images, or damaged'}"
