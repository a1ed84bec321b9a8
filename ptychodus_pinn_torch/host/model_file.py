"""The model that a reconstructor uses: one of the user's, or the one that is shipped."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

__all__ = ['MODEL_EXTENSION', 'MODEL_NAME', 'ModelFile', 'shipped_model_file']

logger = logging.getLogger(__name__)

MODEL_EXTENSION = '.h5.zip'
MODEL_NAME = f'model{MODEL_EXTENSION}'


def shipped_model_file() -> Path:
    """Returns the path of the model that comes with the package."""
    return Path(__file__).parents[1] / 'models' / 'universal.h5.zip'


class ModelFile:
    """Which archive is in use. None is the shipped one."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._description: tuple[Path, float, str] | None = None

    @property
    def path(self) -> Path | None:
        """The user's archive, or None for the shipped one."""
        return self._path

    @property
    def is_present(self) -> bool:
        """Whether the archive in use is there; the shipped one always counts as present."""
        return self._path is None or self._path.is_file()

    def use(self, path: Path) -> None:
        """Uses an archive from now on.

        Raises:
            ValueError: not a model of ours; says what it is.
            FileNotFoundError: there is no such file.
        """
        if not path.is_file():
            raise FileNotFoundError(f'{path} does not exist: choose a *{MODEL_EXTENSION} file.')
        describe(path)
        self._path = path.resolve()
        self._description = None

    def use_shipped(self) -> None:
        """Uses the shipped model from now on."""
        self._path = None

    def require(self) -> Path | None:
        """Returns the path to reconstruct with, None for the shipped model.

        Raises:
            FileNotFoundError: the user's archive is gone.
        """
        if not self.is_present:
            raise FileNotFoundError(
                f'The model {self._path} is gone: load another one, train again, or press '
                '"Use Shipped Model".'
            )
        return self._path

    def copy_to(self, path: Path) -> None:
        """Copies the model in use, whole or not at all.

        Raises:
            FileNotFoundError: the model is gone.
        """
        from ..scan.output import write_atomically

        source = self.require() or shipped_model_file()
        if not source.is_file():
            raise FileNotFoundError(
                'There is no model to save: none was trained or loaded, and the shipped model '
                'is missing. Train or load one, or install ptychodus-pinn-torch again.'
            )
        if path.exists() and path.samefile(source):
            return

        def write(temporary: Path) -> None:
            shutil.copyfile(source, temporary)

        write_atomically(path, write)

    def describe(self) -> str:
        """Returns one or two lines on which model is in use, and for what it was made."""
        if not self.is_present:
            return f'{self._path} is gone.'
        path = self._path or shipped_model_file()
        if not path.is_file():
            return 'The shipped model is missing from this installation.'
        changed = path.stat().st_mtime
        if self._description is None or self._description[:2] != (path, changed):
            self._description = (path, changed, self._compose(path))
        return self._description[2]

    def _compose(self, path: Path) -> str:
        title = 'Shipped model' if self._path is None else path.name
        try:
            return f'{title}: {summarise(describe(path))}'
        except (OSError, ValueError) as error:
            return f'{title}: {error}'


def describe(path: Path) -> Any:
    """Returns the description of an archive, without an engine.

    Raises:
        ValueError: not a model of ours.
    """
    from ..archive import describe_archive

    return describe_archive(path)


def summarise(description: Any) -> str:
    """Returns the description of an archive in one line."""
    return str(description)
