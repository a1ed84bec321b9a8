"""A process that runs commands on spoilt files within limits, and says how they ended."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEMORY_BYTES = 1_500_000_000
_PACKAGE = 'ptychodus_pinn_torch' + os.sep


def limit_memory() -> None:
    """Lets the process grow by 1.5 GB from here on."""
    if not sys.platform.startswith('linux'):
        return
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def _functions() -> dict[str, Callable[[Path], object]]:
    """Returns what reads files without being a command."""
    from ptychodus_pinn_torch.interop.bundles import load_inference_bundle_torch
    from ptychodus_pinn_torch.interop.config_manager import ConfigManager
    from ptychodus_pinn_torch.interop.legacy_config import (
        config_from_legacy,
        dataclass_to_legacy_dict,
        update_legacy_dict,
    )
    from ptychodus_pinn_torch.interop.params_cfg import read_params_cfg
    from ptychodus_pinn_torch.live.messages import decode_message
    from ptychodus_pinn_torch.models.opening import open_model
    from ptychodus_pinn_torch.networks.registry import build_with_weights

    def backend(path: Path) -> None:
        archive = open_model(path, backend='pytorch')
        build_with_weights(archive.config.network, archive.network_weights(), str(path))

    return {
        '(backend)': backend,
        '(bundle)': lambda path: load_inference_bundle_torch(path.parent),
        '(legacy)': config_from_legacy,
        '(flat)': lambda path: update_legacy_dict({}, path),
        '(commands)': lambda path: config_from_legacy(
            dataclass_to_legacy_dict(path), name=str(path)
        ),
        '(manager)': lambda path: ConfigManager._from_json(path).to_config(),
        '(params)': read_params_cfg,
        '(message)': lambda path: decode_message(path.read_bytes()),
    }


def judge(error: BaseException, text: str) -> str:
    """Returns what kind of failure an error is: `sentence` where it is one of ours."""
    if isinstance(error, MemoryError) or 'allocate memory' in text or 'not enough memory' in text:
        return 'memory'
    if not isinstance(error, (ValueError, OSError, RuntimeError, ImportError, KeyError)):
        return 'foreign'
    if isinstance(error, OSError) and error.filename:
        return 'sentence'
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    is_ours = _PACKAGE in last and 'site-packages' not in last
    return 'sentence' if is_ours and not isinstance(error, RecursionError) else 'foreign'


def run(words: list[str], place: str) -> dict[str, Any]:
    """Returns how a command ended."""
    from ptychodus_pinn_torch import cli
    from ptychodus_pinn_torch.models.archive import shipped_model

    errors: list[tuple[BaseException, str]] = []
    explain = cli.explain

    def listen(error: BaseException, inputs: Any) -> str:
        text = explain(error, inputs)
        errors.append((error, ''.join(traceback.format_exception(error))))
        return text

    out, err = io.StringIO(), io.StringIO()
    started = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        if words[0].startswith('('):
            try:
                _functions()[words[0]](Path(words[1]))
                status, last = 0, ''
            except Exception as error:  # noqa: BLE001 - that is what is to be judged
                status, last = 1, str(error)
                errors.append((error, ''.join(traceback.format_exception(error))))
        else:
            cli.explain = listen  # type: ignore[assignment]
            status = cli.main(words)
            cli.explain = explain
            last = (err.getvalue().splitlines() or [''])[-1]
    verdict, trace = ('fine' if status == 0 else 'sentence'), ''
    if errors:
        verdict, trace = judge(errors[-1][0], last), errors[-1][1]
    is_message = words[0] == '(message)'
    is_named = is_message or place in last or str(shipped_model()) in last
    if verdict == 'sentence' and ('\n' in last or not last.rstrip().endswith(('.', ')'))):
        verdict = 'no sentence'
    elif verdict == 'sentence' and not is_named:
        verdict = 'unnamed'
    elif (
        not words[0].startswith('(')
        and verdict in ('fine', 'sentence')
        and set(out.getvalue() + err.getvalue()) & set('\x1b\x07')
    ):
        verdict = 'control characters'
    seconds = time.process_time() - started
    return {'verdict': verdict, 'last': last[:400], 'trace': trace[-1500:], 'seconds': seconds,
            'noise': 'Warning' in err.getvalue()}  # fmt: skip


def main() -> None:
    """Answers each line of standard input, a job, by a line of standard output."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    import h5py  # noqa: F401
    import lightning  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import ptychodus.api.product  # noqa: F401
    import scipy.ndimage  # noqa: F401
    import torch

    torch.set_num_threads(1)
    _functions()
    answers.write('ready\n')
    answers.flush()
    for line in sys.stdin:
        job = json.loads(line)
        limit_memory()
        answers.write(json.dumps(run(job['words'], job['place'])) + '\n')
        answers.flush()


if __name__ == '__main__':
    main()
