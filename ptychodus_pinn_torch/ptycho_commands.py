"""The commands `ptycho_train` and `ptycho_inference` of PtychoPINN, with its flags.

They are `ptychodus-pinn train` and `reconstruct` under the names that scripts call. No such command is
installed unasked, since PtychoPINN itself installs them:

    python -m ptychodus_pinn_torch.ptycho_commands install

writes the two beside the Python that runs it, unless they are there already. Without that,
`python -m ptychodus_pinn_torch.ptycho_commands train ...` and `... inference ...` do the same.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .cli import EXIT_FAILED, EXIT_USAGE, main
from .config import Config, ConfigError, override_config
from .console import plain_streams
from .interop.legacy_config import config_from_legacy, dataclass_to_legacy_dict
from .interop.legacy_fields import (
    EXECUTION_FIELDS,
    INFERENCE_FIELDS,
    MODEL_FIELDS,
    TRAINING_FIELDS,
    Field,
)
from .models.archive import BUNDLE_NAME
from .scan.io.output import write_atomically

__all__ = ['ptycho_inference', 'ptycho_train']

logger = logging.getLogger(__name__)

_SCRIPT = """#!{python}
import sys

from ptychodus_pinn_torch.ptycho_commands import {name}

sys.exit({name}())
"""


def _boolean(text: str) -> bool:
    words = {'true': True, '1': True, 'yes': True, 'false': False, '0': False, 'no': False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f'{text!r} is neither true nor false')
    return words[text.lower()]


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _parser(name: str, summary: str, fields: Iterable[Field]) -> argparse.ArgumentParser:
    """Returns a parser with a flag for every field; none of them has a default."""
    parser = argparse.ArgumentParser(prog=name, description=summary)
    parser.add_argument('--config', type=Path, help='YAML or JSON file of the same fields')
    for field in {item.name: item for item in fields}.values():
        settings: dict[str, Any] = {'default': argparse.SUPPRESS}
        settings['help'] = field.option or f'left out: {field.remark}'
        if isinstance(field.default, bool):
            settings |= {'type': _boolean, 'nargs': '?', 'const': True, 'metavar': 'BOOL'}
        else:
            is_text = isinstance(field.default, str)
            settings |= {'type': str if is_text else _number, 'metavar': 'VALUE'}
        parser.add_argument(f'--{field.name}', **settings)
    return parser


def _fields_of(
    parser: argparse.ArgumentParser, words: Sequence[str] | None
) -> tuple[dict[str, Any], str]:
    """Returns the fields of the configuration file with those of the flags, and the file's name."""
    given = vars(parser.parse_args(words))
    path = given.pop('config')
    fields = {} if path is None else dataclass_to_legacy_dict(path)
    names = {'output_prefix': 'output_dir', 'train_data_file_path': 'train_data_file'}
    names['test_data_file_path'] = 'test_data_file'
    fields = {names.get(key, key): value for key, value in fields.items()} | given
    return fields, '' if path is None else str(path)


def _require(parser: argparse.ArgumentParser, fields: dict[str, Any], name: str) -> Any:
    if fields.get(name) is None:
        parser.error(f'--{name} is needed, as a flag or in the configuration file')
    return fields.pop(name)


def ptycho_train(words: Sequence[str] | None = None) -> int:
    """Returns the exit status of a training: 0 done, 1 failed, 2 usage."""
    with plain_streams():
        return _train(words)


def ptycho_inference(words: Sequence[str] | None = None) -> int:
    """Returns the exit status of making an image: 0 done, 1 failed, 2 usage."""
    with plain_streams():
        return _infer(words)


def _train(words: Sequence[str] | None) -> int:
    fields = (*MODEL_FIELDS, *TRAINING_FIELDS, *EXECUTION_FIELDS)
    parser = _parser('ptycho_train', 'Train a model on the NPZ of a scan.', fields)
    try:
        given, name = _fields_of(parser, words)
        scan = _require(parser, given, 'train_data_file')
        test = given.pop('test_data_file', None)
        output = Path(str(given.pop('output_dir', 'training_outputs'))) / BUNDLE_NAME
        backend = given.pop('backend', None)
        config = config_from_legacy(given, name=name).config
        config = override_config(config, {'training.start': 'none'})
    except ConfigError as error:
        _say(error)
        return EXIT_USAGE
    command = ['train', '--output', str(output)]
    command += ['--validation', str(test)] if test else []
    command += ['--backend', str(backend)] if backend else []
    return _run(command, str(scan), config)


def _infer(words: Sequence[str] | None) -> int:
    parser = _parser('ptycho_inference', 'Make the image of a scan.', INFERENCE_FIELDS)
    parser.add_argument(
        '--test_data', default=argparse.SUPPRESS, help='the same as --test_data_file'
    )
    try:
        given, _ = _fields_of(parser, words)
    except ConfigError as error:
        _say(error)
        return EXIT_USAGE
    given.setdefault('test_data_file', given.pop('test_data', None))
    model, scan = (
        Path(str(_require(parser, given, 'model_path'))),
        _require(parser, given, 'test_data_file'),
    )
    output = Path(str(given.pop('output_dir', 'inference_outputs'))) / 'reconstruction.npz'
    backend = given.pop('backend', None)
    for name in given:
        logger.warning('%s is left out: every image covers the whole scan.', name)
    command = ['reconstruct', '--model', str(model), '--output', str(output)]
    command += ['--backend', str(backend)] if backend else []
    return _run(command, str(scan), Config())


def _run(command: list[str], scan: str, config: Config) -> int:
    """Returns the exit status of a command of ours on a scan, whatever it is called."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'config.json'
        path.write_text(json.dumps(config.model_dump()), encoding='utf-8')
        return main([*command, '--config', str(path), '--', scan])


def _say(sentence: object) -> None:
    sys.stderr.write(f'{sentence}\n')


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda part: part.write_text(text, encoding='utf-8'))


def install() -> int:
    """Writes both commands beside the running Python; returns 1 where one is there already."""
    folder, status = Path(sysconfig.get_path('scripts')), 0
    for name in ('ptycho_train', 'ptycho_inference'):
        path = folder / name
        if path.exists():
            _say(f'{path}: is there already, and stays as it is.')
            status = EXIT_FAILED
            continue
        _write(path, _SCRIPT.format(python=sys.executable, name=name))
        os.chmod(path, 0o755)
        sys.stdout.write(f'{path}\n')
    return status


if __name__ == '__main__':
    actions = {'train': ptycho_train, 'inference': ptycho_inference}
    if sys.argv[1:2] == ['install']:
        sys.exit(install())
    if sys.argv[1:2] and sys.argv[1] in actions:
        sys.exit(actions[sys.argv[1]](sys.argv[2:]))
    _say(f'usage: {{{",".join((*actions, "install"))}}} ...')
    sys.exit(EXIT_USAGE)
