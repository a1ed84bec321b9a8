"""The model that a reconstructor uses: one of the user's, or the one that is shipped."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..models.archive import EXTENSION, Archive, shipped_model

__all__ = ['MODEL_EXTENSION', 'MODEL_NAME', 'ModelFacts', 'ModelFile', 'inspect_model']

MODEL_EXTENSION = EXTENSION
MODEL_NAME = f'model{MODEL_EXTENSION}'


@dataclass(frozen=True)
class ModelFacts:
    """What an archive tells about itself.

    Attributes:
        summary: In a few words, what the model is and for what it was made.
        history: Epoch, training loss and held-out error, what is known.
    """

    summary: str
    history: tuple[tuple[int, float | None, float | None], ...] = ()


def inspect_model(path: Path) -> ModelFacts:
    """Returns what an archive tells about itself, without an engine.

    Raises:
        ValueError: not a model of ours; says what it is.
    """
    from ..models.opening import read_without_torch  # not when Ptychodus starts: it takes time

    archive = read_without_torch(path)
    if not isinstance(archive, Archive):
        size = archive.layout['pattern_size']
        return ModelFacts(
            f'a TensorFlow model of PtychoPINN for patterns of {size} px, converted when it is used'
        )
    return ModelFacts(
        summary=summarise(archive),
        history=tuple(
            (int(row['epoch'] or 0), row.get('loss'), row.get('held_out'))
            for row in archive.history
        ),
    )


def summarise(archive: Archive) -> str:
    """Returns what an archive is and for what it was made; what it does not know is left out."""
    details = archive.details
    made = str(details['made_from']) if 'made_from' in details else _join(details.get('scans'))
    size = details.get('pattern_size')
    parts = [
        f'{archive.config.network.kind} network, {archive.backend} backend',
        f'trained {archive.config.mode}' + (f' on {made}' if made else ''),
        f'{_join(details.get("patterns"))} patterns of {size} px' if size else '',
        _count(details.get('probe_modes'), 'probe mode(s)'),
        _count(details.get('photons'), 'photons per pattern'),
        f'held-out error {_join(details["held_out"])}' if details.get('held_out') else '',
    ]
    return '; '.join(part for part in parts if part)


def _count(value: Any, noun: str) -> str:
    return f'{_join(value)} {noun}' if value not in (None, [], ()) else ''


def _join(value: Any) -> str:
    items = value if isinstance(value, list | tuple) else [value]
    texts = [f'{item:.3g}' if isinstance(item, float) else str(item) for item in items]
    return ', '.join(dict.fromkeys(text for text in texts if text != 'None'))


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

    def use(self, path: Path) -> ModelFacts:
        """Uses an archive from now on; returns what it tells about itself.

        Raises:
            ValueError: not a model of ours; says what it is.
            FileNotFoundError: there is no such file.
        """
        if not path.is_file():
            raise FileNotFoundError(f'{path} does not exist: choose a *{MODEL_EXTENSION} file.')
        facts = inspect_model(path)
        self._path = path.resolve()
        self._description = None
        return facts

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

        source = self.require() or shipped_model()
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

    @property
    def title(self) -> str:
        """What to call the model in use."""
        return 'the shipped model' if self._path is None else f'the model {self._path}'

    def describe(self) -> str:
        """Returns a sentence on which model is in use, and for what it was made."""
        if not self.is_present:
            return f'{self._path} is gone: load another model, or use the shipped one.'
        path = self._path or shipped_model()
        if not path.is_file():
            return 'The shipped model is missing from this installation.'
        changed = path.stat().st_mtime
        if self._description is None or self._description[:2] != (path, changed):
            self._description = (path, changed, self._compose(path))
        return self._description[2]

    def _compose(self, path: Path) -> str:
        title = 'Shipped model' if self._path is None else f'{path.parent.name}/{path.name}'
        try:
            return f'{title}: {inspect_model(path).summary}.'
        except (OSError, ValueError) as error:
            return f'{title}: {error}'
