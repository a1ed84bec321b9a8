"""The model that a reconstructor uses: one of the user's, or the one that is shipped."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..models.archive import EXTENSION, Archive, shipped_model
from .results import TrainingCurve

__all__ = ['MODEL_EXTENSION', 'MODEL_NAME', 'ModelFacts', 'ModelFile', 'inspect_model']

MODEL_EXTENSION = EXTENSION
MODEL_NAME = f'model{MODEL_EXTENSION}'


@dataclass(frozen=True)
class ModelFacts:
    """What an archive tells about itself.

    Attributes:
        summary: In a few words, what the model is and for what it was made.
        curve: Of its training, as far as it is known.
    """

    summary: str
    curve: TrainingCurve = TrainingCurve()


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
    curve = TrainingCurve()
    for row in archive.history:
        curve = curve.append(int(row['epoch'] or 0), row.get('loss'), row.get('held_out'))
    return ModelFacts(summarise(archive), curve)


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
    """Which archive is in use.

    Attributes:
        path: The user's archive, or None for the shipped one.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self._described: tuple[Path, float] | None = None
        self._description = ''

    @property
    def is_present(self) -> bool:
        """Whether the archive in use is there; the shipped one always counts as present."""
        return self.path is None or self.path.is_file()

    def use(self, path: Path) -> ModelFacts:
        """Uses an archive from now on; returns what it tells about itself.

        Raises:
            ValueError: not a model of ours; says what it is.
            FileNotFoundError: there is no such file.
        """
        if not path.is_file():
            raise FileNotFoundError(f'{path} does not exist: choose a *{MODEL_EXTENSION} file.')
        facts = inspect_model(path)
        self.path = path.resolve()
        return facts

    def require(self) -> Path | None:
        """Returns the path to reconstruct with, None for the shipped model.

        Raises:
            FileNotFoundError: the user's archive is gone.
        """
        if not self.is_present:
            raise FileNotFoundError(
                f'The model {self.path} is gone: load another one, train again, or press '
                '"Use Shipped Model".'
            )
        return self.path

    def copy_to(self, path: Path) -> None:
        """Copies the model in use, whole or not at all.

        Raises:
            FileNotFoundError: the model is gone.
        """
        from ..scan.io.output import write_atomically

        source = self.require() or shipped_model()
        if not source.is_file():
            raise FileNotFoundError(
                'There is no model to save: none was trained or loaded, and the shipped model '
                'is missing. Train or load one, or install ptychodus-pinn-torch again.'
            )
        if not (path.exists() and path.samefile(source)):
            write_atomically(path, lambda temporary: shutil.copyfile(source, temporary))

    @property
    def title(self) -> str:
        """What to call the model in use."""
        return 'the shipped model' if self.path is None else f'the model {self.path}'

    def describe(self) -> str:
        """Returns a sentence on which model is in use, and for what it was made."""
        if not self.is_present:
            return f'{self.path} is gone: load another model, or use the shipped one.'
        path = self.path or shipped_model()
        if not path.is_file():
            return 'The shipped model is missing from this installation.'
        present = (path, path.stat().st_mtime)
        if self._described != present:
            title = f'{path.parent.name}/{path.name}' if self.path else 'Shipped model'
            try:
                self._description = f'{title}: {inspect_model(path).summary}.'
            except (OSError, ValueError) as error:
                self._description = f'{title}: {error}'
            self._described = present
        return self._description
