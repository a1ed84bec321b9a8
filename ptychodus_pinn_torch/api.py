"""The Python interface: from scan to image and to model in a line each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .backend import (
    Reconstruction,
    ReconstructRequest,
    Report,
    TrainRequest,
    ignore_report,
    resolve_backend,
)
from .config import Config, override_config, refuse_without_effect
from .scan.scan import Scan

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ['reconstruct', 'simulate', 'train']


def _configure(
    config: Config | None, options: dict[str, Any] | None, command: str, backend: str | None
) -> tuple[Config, str]:
    """Returns the configuration with options on top, none of them without effect; the engine."""
    engine = resolve_backend(backend)
    given = options or {}
    settled = override_config(config or Config(), given, source='options')
    refuse_without_effect(settled, command=command, backend=engine, given=given)
    return settled, engine


def reconstruct(
    scan: Scan,
    model: Path | str | None = None,
    *,
    config: Config | None = None,
    options: dict[str, Any] | None = None,
    backend: str | None = None,
    report: Report = ignore_report,
) -> Reconstruction:
    """Returns the image of a scan on the grid of its object.

    Args:
        scan: From `read_scan` or `simulate`.
        model: A model archive; the shipped model by default.
        config: A whole configuration; `options` (`{'section.name': value}`) go on top.
        options: For example `{'reconstruction.refine_epochs': 2}`.
        backend: `pytorch` or `tensorflow`; see `backend.resolve_backend`.
        report: Called with progress; raise `KeyboardInterrupt` from it to stop.

    Raises:
        ValueError: a scan, a model or an option that cannot be used; says what to do.

    Examples:
        >>> import ptychodus_pinn_torch as pinn
        >>> scan = pinn.simulate(pattern_size=32, num_positions=64, step_px=3.0)
        >>> image = pinn.reconstruct(scan, options={'reconstruction.refine_epochs': 1})
        >>> image.object_.shape == scan.object_.shape
        True
        >>> image.start, image.losses[-1][1] < 0.1
        ('network', True)
    """
    from .reconstruction.procedure import reconstruct as run

    path = None if model is None else Path(model)
    settings, engine = _configure(config, options, 'reconstruct', backend)
    return run(ReconstructRequest(scan, settings, path, engine), report)


def train(
    scans: Scan | Sequence[Scan],
    output: Path | str,
    *,
    validation: Sequence[Scan] = (),
    config: Config | None = None,
    options: dict[str, Any] | None = None,
    backend: str | None = None,
    report: Report = ignore_report,
) -> Path:
    """Returns the path of the model archive that training has written.

    Args:
        scans: One or more scans, measured or simulated.
        output: The archive to write, by convention `*.h5.zip`.
        validation: Scans that are judged on and never trained on.
        config: A whole configuration; `options` (`{'section.name': value}`) go on top.
        options: For example `{'training.max_steps': 300}`.
        backend: `pytorch` or `tensorflow`; see `backend.resolve_backend`.
        report: Called with progress; raise `KeyboardInterrupt` from it to stop and keep the best.

    Raises:
        ValueError: a scan or an option that cannot be used; says what to do.
        KeyboardInterrupt: training was stopped; the best model so far has been written.

    Examples:
        >>> import tempfile
        >>> import ptychodus_pinn_torch as pinn
        >>> scan = pinn.simulate(pattern_size=32, num_positions=64, step_px=3.0)
        >>> options = {'training.max_steps': 2, 'grouping.group_size': 16}
        >>> model = pinn.train(scan, tempfile.mkdtemp() + '/model.h5.zip', options=options)
        >>> model.name, pinn.reconstruct(scan, model).start
        ('model.h5.zip', 'network')
    """
    from .training.run import train as run

    settings, engine = _configure(config, options, 'train', backend)
    several = (scans,) if isinstance(scans, Scan) else tuple(scans)
    request = TrainRequest(several, settings, Path(output), tuple(validation), backend=engine)
    return run(request, report)


def simulate(
    *,
    object_: NDArray[Any] | None = None,
    probe: NDArray[Any] | None = None,
    **options: Any,
) -> Scan:
    """Returns a simulated scan with its truth; the options are those of `SimulationSpec`.

    `object_` (Y, X) and `probe` (P, H, W), both complex, take the place of simulated ones.

    Raises:
        ValueError: a value that makes no scan; names it.

    Examples:
        >>> import ptychodus_pinn_torch as pinn
        >>> scan = pinn.simulate(pattern_size=32, num_positions=25, photons=1e5, seed=1)
        >>> scan.patterns.shape, scan.patterns.dtype.kind
        ((25, 32, 32), 'u')
        >>> scan.truth.shape == scan.object_.shape
        True
    """
    from .simulation.simulated_scan import SimulationSpec, simulate_scan

    return simulate_scan(SimulationSpec(**options), object_=object_, probe=probe)
