"""The folder of a run beside its archive: what was asked for, so that it can be resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import Config, ConfigError
from ..scan.io.output import write_atomically
from .processes import process_rank

if TYPE_CHECKING:
    from .batches import Batches

__all__ = ['BEST_NAME', 'best_of', 'folder_of', 'prepare_folder']

BEST_NAME = 'best.h5.zip'

CONFIG_NAME, DATA_NAME = 'config.json', 'data.json'
CHECKPOINTS = ('*.ckpt', '*.safetensors')
LEFTOVERS = (*CHECKPOINTS, BEST_NAME)


def folder_of(output: Path) -> Path:
    """Returns the folder that belongs to an archive."""
    return output.parent / f'{output.name.removesuffix(".h5.zip")}.run'


def best_of(output: Path) -> Path:
    """Returns where the best model of a run is while it lasts, whole at any moment."""
    return folder_of(output) / BEST_NAME


def prepare_folder(folder: Path, config: Config, batches: Batches, *, is_resumed: bool) -> None:
    """Makes the folder ready for a new run, or checks that it holds this very run.

    Raises:
        ConfigError: there is nothing to resume, or options or data are others than before.
    """
    texts = {
        CONFIG_NAME: config.model_dump_json(indent=2, exclude={'execution'}),
        DATA_NAME: json.dumps(batches.identity()),
    }
    if is_resumed:
        _check(folder, texts)
        return
    folder.mkdir(parents=True, exist_ok=True)
    if process_rank()[0] != 0:
        return
    for leftover in (path for pattern in LEFTOVERS for path in folder.glob(pattern)):
        leftover.unlink()
    for name, text in texts.items():
        write_atomically(folder / name, lambda path, text=text: path.write_text(text, 'utf-8'))  # type: ignore[misc]


def _check(folder: Path, texts: dict[str, str]) -> None:
    has_state = any(next(folder.glob(f'last{pattern[1:]}'), None) for pattern in CHECKPOINTS)
    if not has_state or not all((folder / name).is_file() for name in texts):
        raise ConfigError(f'{folder}: holds no interrupted run: start without --resume.')
    for name, what in ((CONFIG_NAME, 'options'), (DATA_NAME, 'scans')):
        if json.loads((folder / name).read_text(encoding='utf-8')) != json.loads(texts[name]):
            raise ConfigError(
                f'{folder / name}: the interrupted run had other {what}: give the same ones, or '
                'start without --resume.'
            )
