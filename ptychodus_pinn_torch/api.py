"""The Python interface: from scan to image and to model in a line each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .backend import (
    EpochReport,
    Reconstruction,
    ReconstructRequest,
    Report,
    TrainRequest,
    resolve_backend,
)
from .config import Config, override_config, refuse_without_effect
from .scan.scan import Scan

__all__ = ['reconstruct', 'simulate', 'train']


def _ignore(report: EpochReport) -> None:
    """Takes a report and does nothing."""


def _configure(
    config: Config | None, options: dict[str, Any] | None, *, command: str, backend: str
) -> Config:
    """Returns the configuration with options on top, none of which may be without effect."""
    given = options or {}
    settled = override_config(config or Config(), given, source='options')
    refuse_without_effect(settled, command=command, backend=backend, given=given)
    return settled


def reconstruct(
    scan: Scan,
    model: Path | str | None = None,
    *,
    config: Config | None = None,
    options: dict[str, Any] | None = None,
    backend: str | None = None,
    report: Report = _ignore,
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
    """
    from .reconstruction.procedure import reconstruct as run

    path = None if model is None else Path(model)
    engine = resolve_backend(backend)
    settings = _configure(config, options, command='reconstruct', backend=engine)
    return run(ReconstructRequest(scan, settings, path, engine), report)


def train(
    scans: Scan | Sequence[Scan],
    output: Path | str,
    *,
    validation: Sequence[Scan] = (),
    config: Config | None = None,
    options: dict[str, Any] | None = None,
    backend: str | None = None,
    report: Report = _ignore,
) -> Path:
    """Returns the path of the model archive that training has written (see `reconstruct`)."""
    from .training.run import train as run

    engine = resolve_backend(backend)
    settings = _configure(config, options, command='train', backend=engine)
    several = (scans,) if isinstance(scans, Scan) else tuple(scans)
    request = TrainRequest(
        several,
        settings,
        Path(output),
        tuple(validation),
        backend=engine,
    )
    return run(request, report)


def simulate(**options: Any) -> Scan:
    """Returns a simulated scan with its truth; the options are those of `SimulationSpec`."""
    from .simulation.simulated_scan import SimulationSpec, simulate_scan

    return simulate_scan(SimulationSpec(**options))
