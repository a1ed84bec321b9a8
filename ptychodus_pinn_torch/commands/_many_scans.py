"""Images of many scans in one call: a table, and one that fails does not stop the rest."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Config
from ..scan.io.images import is_image
from ..scan.io.output import write_atomically
from . import UsageError
from ._images import IMAGE_SUFFIXES, figures_of, make_image
from ._outputs import FileKey, check_output, keys_of
from ._scan_options import flags_of_reading

__all__ = ['is_many', 'run_many']

SCAN_SUFFIXES = ('.npz', '.h5', '.hdf5', '.cxi')
DIFFRACTION, PRODUCT = 'diffraction.h5', 'product.h5'
TABLE, TABLE_S = 'results.csv', 10.0
COLUMNS = ('name', 'scan', 'verdict', 'to_noise', 'held_out', 'seconds', 'freed', 'failure')


def is_many(arguments: argparse.Namespace) -> bool:
    """Returns whether several scans are meant: more than one, or a folder that is not one itself."""
    first = arguments.scans[0]
    return len(arguments.scans) > 1 or (first.is_dir() and not _is_scan(first))


def _is_scan(folder: Path) -> bool:
    """Returns whether a folder is a scan itself, or was meant to be one."""
    return (folder / DIFFRACTION).exists() or (folder / PRODUCT).exists()


def run_many(arguments: argparse.Namespace, config: Config, backend: str) -> int:
    """Makes the images; returns 1 where one of them failed.

    Beside each image lies a JSON file of its figures, from which a run that is started again
    knows what is done; the table `results.csv` is made of all of them.

    Raises:
        UsageError: flags that serve a single scan, an output that is no folder, or two scans that
            would have the same name.
        ValueError: a folder without scans.
    """
    for flag in ('picture', 'product'):
        if getattr(arguments, flag) is not None:
            raise UsageError(f'--{flag} is that of a single scan: leave it out.')
    folder: Path = arguments.output
    if folder.suffix in IMAGE_SUFFIXES or folder.is_file():
        raise UsageError(f'{folder}: of several scans, --output must be a folder.')
    named = _name_scans(list(_expand(arguments.scans)))
    chosen = _part_of(sorted(named), arguments.part)
    inputs = keys_of((*named.values(), arguments.model))
    table = folder / TABLE
    check_output(table, arguments, suffixes=(TABLE,), inputs=inputs, is_ours=_is_table(table))
    with _errors_only():
        run = _Run(arguments, config, backend, _load_model(arguments, config, backend), inputs)
        try:
            counts = _make_all(run, {name: named[name] for name in chosen})
        finally:
            _write_table(folder)
    if not arguments.quiet and not arguments.json:
        told = ', '.join(f'{number} {word}' for word, number in counts.items())
        sys.stdout.write(f'{len(chosen)} scans: {told or "nothing to do"}; {table}\n')
    return int('failed' in counts)


@dataclass(frozen=True)
class _Run:
    """What is the same for all scans; `inputs` are the keys of all files that are read."""

    arguments: argparse.Namespace
    config: Config
    backend: str
    model: Any
    inputs: frozenset[FileKey]


def _make_all(run: _Run, scans: Mapping[str, Path]) -> dict[str, int]:
    """Returns how many scans have come to what; writes the table now and then."""
    folder: Path = run.arguments.output
    counts: dict[str, int] = {}
    written_s = time.monotonic()
    for number, (name, scan) in enumerate(scans.items(), 1):
        record, is_new = _make(run, scan, folder / name)
        row = _row(name, record)
        word = ('' if is_new else 'done before, ') + (row['verdict'] or 'made')
        word = 'failed' if record.get('failure') else word
        counts[word] = counts.get(word, 0) + 1
        _tell(run.arguments, f'[{number}/{len(scans)}]', row, word, record)
        if time.monotonic() - written_s > TABLE_S:
            written_s = time.monotonic()
            _write_table(folder)
    return counts


@contextlib.contextmanager
def _errors_only() -> Iterator[None]:
    """Keeps sentences about single scans from the console: they are in the JSON files."""
    own = logging.getLogger('ptychodus_pinn_torch')
    level = own.level
    own.setLevel(logging.ERROR)
    try:
        yield
    finally:
        own.setLevel(level)


def _expand(paths: Sequence[Path]) -> Iterator[Path]:
    """Yields scans: what is named, and of folders that are none themselves, those inside."""
    for path in paths:
        if not path.is_dir() or _is_scan(path):
            yield path
            continue
        inside = [
            child
            for child in sorted(path.iterdir())
            if not child.name.startswith('.')  # nobody's scan, but what is being written
            and (_is_scan(child) or child.suffix in SCAN_SUFFIXES and not _is_image(child))
        ]
        if not inside:
            raise ValueError(
                f'{path}: holds no scans, neither *.npz nor folders with {DIFFRACTION}.'
            )
        yield from inside


def _is_image(path: Path) -> bool:
    """Returns whether a file is an image, and no scan, by what lies in it."""
    try:
        return is_image(path)
    except (ValueError, OSError):
        return False  # who reads it says what is wrong


def _name_scans(paths: Sequence[Path]) -> dict[str, Path]:
    """Returns scans by the name of their image: that of the file, of its folder too where needed."""
    for depth in (1, 2, 3):
        names = ['_'.join(path.absolute().with_suffix('').parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return dict(zip(names, paths))
    twice = next(name for name in names if names.count(name) > 1)
    raise UsageError(f'{twice} would be the name of two images: name each scan once.')


def _part_of(names: list[str], part: str | None) -> list[str]:
    """Returns every N-th name from the I-th on."""
    if part is None:
        return names
    first, _, number = part.partition('/')
    if not (first.isdigit() and number.isdigit() and 1 <= int(first) <= int(number)):
        raise UsageError(f'--part {part}: must be I/N with I from 1 to N, such as 3/8.')
    return names[int(first) - 1 :: int(number)]


def _load_model(arguments: argparse.Namespace, config: Config, backend: str) -> Any:
    if config.reconstruction.start != 'network':
        return None
    from ..physics.devices import set_threads
    from ..reconstruction.procedure import load_model

    set_threads(config.execution.num_threads)
    return load_model(arguments.model, config, backend)


def _make(run: _Run, scan: Path, base: Path) -> tuple[dict[str, Any], bool]:
    """Returns the record of a scan, and whether it was made now."""
    arguments = run.arguments
    output = base.with_name(f'{base.name}.{arguments.format or "npz"}')
    record_file = base.with_name(f'{base.name}.json')
    picture = None if arguments.no_picture else base.with_name(f'{base.name}.png')
    before, begun = _read_record(record_file), None
    try:
        made_of = _identity(arguments, scan, run.config, run.backend)
        if output.exists() and not arguments.overwrite and before.get('made_of'):
            _check_same(output, before['made_of'], made_of)
            if 'output' in before:
                return before, False
        files = _check_free(run, before, record_file, output, picture)
        # so that an image whose figures were never written is known for one of ours
        begun = {'scan': str(scan), 'made_of': made_of, 'files': files}
        _write_record(record_file, begun)
        image = make_image(arguments, scan, run.config, run.backend, model=run.model)
        image.write(output)
        if picture is not None:
            image.draw(picture)
        record = {'output': output.name, **figures_of(image), **begun}
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one, the others go on
        record = {'failure': _explain(error, scan)}
        if begun is None:
            return record, False  # nothing of what is there is touched
        record |= begun
    _write_record(record_file, record)
    return record, True


def _check_free(
    run: _Run, before: Mapping[str, Any], record_file: Path, output: Path, picture: Path | None
) -> list[str]:
    """Returns the names of all files that runs have made of a scan, with those that come now.

    Raises:
        UsageError, OSError: a file is there that no run has made, or an input; see `check_output`.
    """
    owned = {*before.get('files', ()), *filter(None, [before.get('output')])}
    named = {record_file: bool(before), output: output.name in owned}
    if picture is not None:
        named[picture] = picture.name in owned
    for path, is_ours in named.items():
        check_output(
            path, run.arguments, suffixes=(path.suffix,), inputs=run.inputs, is_ours=is_ours
        )
    return sorted(owned | {output.name, *([] if picture is None else [picture.name])})


def _explain(error: Exception, scan: Path) -> str:
    """Returns a sentence that names the scan; errors that nobody foresaw say their kind too."""
    text = ' '.join(str(error).split())
    if not text or not isinstance(error, (ValueError, OSError, RuntimeError, MemoryError)):
        text = f'{type(error).__name__}: {text}'.rstrip(': ')
    return text if scan.name in text else f'{scan}: {text}'


def _write_record(path: Path, record: Mapping[str, Any]) -> None:
    text = json.dumps(record, indent=1)
    write_atomically(path, lambda part: part.write_text(text, encoding='utf-8'))


def _identity(
    arguments: argparse.Namespace, scan: Path, config: Config, backend: str
) -> dict[str, Any]:
    """Returns what an image is made of, as far as it decides how it looks."""
    file = scan / DIFFRACTION if scan.is_dir() else scan
    size, changed_s = None, None
    with contextlib.suppress(OSError):  # who reads it says so
        size, changed_s = file.stat().st_size, file.stat().st_mtime
    model = arguments.model
    options = flags_of_reading(arguments)
    tree = config.model_dump(mode='json', exclude={'execution'})
    for section, values in tree.items():
        parts = values.items() if isinstance(values, dict) else (('', values),)
        options |= {f'{section}.{name}'.rstrip('.'): value for name, value in parts}
    return {
        'scan': [file.name, size, changed_s],
        'model': None if model is None else [str(model), Path(model).stat().st_mtime],
        'backend': backend,
        **options,
    }


def _check_same(output: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to take an image for done that was made of something else."""
    known = json.loads(json.dumps(now))
    changed = sorted(name for name in known if before.get(name) != known[name])
    if changed:
        raise FileExistsError(
            f'{output}: was made of another {", ".join(changed)}: choose another folder, or '
            '--overwrite to make it again.'
        )


def _read_record(path: Path) -> dict[str, Any]:
    """Returns the record in a file; nothing where the file is no record of such a run."""
    try:
        record = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) and {'scan', 'made_of'} <= set(record) else {}


def _row(name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the row of the table."""
    seconds = record.get('seconds')
    is_known = isinstance(seconds, dict)
    found = {column: record.get(column) for column in COLUMNS} | {'name': name}
    found['seconds'] = round(sum(seconds.values()), 2) if is_known else None  # type: ignore[union-attr]
    found['freed'] = ' '.join(record.get('freed') or ())
    return found


def _tell(
    arguments: argparse.Namespace,
    number: str,
    row: Mapping[str, Any],
    word: str,
    record: Mapping[str, Any],
) -> None:
    if arguments.json:
        sys.stdout.write(json.dumps({'name': row['name'], **record}) + '\n')
    elif record.get('failure'):
        sys.stderr.write(f'{number} {row["name"]}: failed: {record["failure"]}\n')
    elif not arguments.quiet:
        noise = '' if row['to_noise'] is None else f', {row["to_noise"]:.2f} times photon noise'
        sys.stdout.write(f'{number} {row["name"]}: {word}{noise}, {row["seconds"]:.1f} s\n')
    sys.stdout.flush()


def _write_table(folder: Path) -> None:
    """Writes the table of all images in a folder that such runs have made.

    Other parts may write it at the same time. Each looks after writing whether it would write
    the same again, so that whoever is last has written all.
    """
    written = None
    while (text := _table(folder)) != written:
        write_atomically(folder / TABLE, lambda part: part.write_text(text, 'utf-8', newline=''))
        written = text


def _table(folder: Path) -> str:
    files = sorted(path for path in folder.glob('*.json') if not path.name.startswith('.'))
    records = {path.stem: record for path in files if (record := _read_record(path))}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(_row(name, record) for name, record in records.items())
    return text.getvalue().encode(errors='backslashreplace').decode()  # names need not be text


def _is_table(path: Path) -> bool:
    """Returns whether a file is a table of such runs."""
    if not path.is_file():
        return False
    with path.open('rb') as file:
        return file.readline().strip() == ','.join(COLUMNS).encode()
