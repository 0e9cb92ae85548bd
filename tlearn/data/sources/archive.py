"""An archive of images that is downloaded once."""

import os
from dataclasses import dataclass
from pathlib import Path

from tlearn.download import fetch_archive
from tlearn.errors import ConfigError


@dataclass(frozen=True)
class Archive:
    """Where a folder of images comes from.

    Args:
        name: of the folder below `download_root`.
        download_root: where it lies.
        url: of the archive, or None.
        sha256: digest of the archive, or how it starts; None: not checked.
        top: the folder in the archive that is meant.
    """

    name: str
    download_root: str | Path = "data"
    url: str | None = None
    sha256: str | None = None
    top: str | None = None

    @property
    def folder(self) -> Path:
        """The folder of the images."""
        return Path(os.path.expanduser(self.download_root)) / self.name

    def fetch(self) -> None:
        """Download and extract the archive unless the folder is there."""
        if os.path.exists(self.folder):
            return
        if self.url is None:
            raise ConfigError(f"data.root must be given: {self.folder} does not exist and data.url names no archive")
        fetch_archive(self.url, self.folder, sha256=self.sha256, top=self.top, what=self.name)
