"""What tests of data share: counting what is decoded."""

from pathlib import Path

import pytest

from tlearn.data.decode import Decoder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of files that decoders were called with since it was last cleared."""
    names: list[str] = []
    original = Decoder.read

    def counting(self: Decoder, path: str | Path) -> object:
        names.append(Path(path).name)
        return original(self, path)

    monkeypatch.setattr(Decoder, "read", counting)
    return names
