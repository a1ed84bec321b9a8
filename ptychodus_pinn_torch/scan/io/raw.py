"""What a layout says, which array is which, and what the user says of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy
from numpy.typing import NDArray

from ..positions import PositionTransform
from .pattern_store import stage_parts

__all__ = ['DiffractionKind', 'RawScan', 'ReadOptions', 'StoredPatterns', 'flag']

DiffractionKind = Literal['auto', 'counts', 'amplitude']


@dataclass(frozen=True)
class StoredPatterns:
    """Patterns that are still in a file.

    Attributes:
        shape: As they lie there; `is_transposed` where all axes are to be turned round.
        dtype: Of the values.
        blocks: Yields them in order along the first axis, some at a time.
        place: File, by its path or open, and first byte, where they lie there one after the other.
    """

    shape: tuple[int, ...]
    dtype: numpy.dtype[Any]
    blocks: Callable[[], Iterable[NDArray[Any]]]
    place: tuple[Any, int] | None = None
    is_transposed: bool = False

    def load(self) -> NDArray[Any]:
        """Returns them as a read-only map of their file, or of a temporary one."""
        if self.place is None or 0 in self.shape:
            found = stage_parts(self.shape, self.dtype, self.blocks())
        else:
            file, offset = self.place
            found = numpy.memmap(file, self.dtype, 'r', offset, self.shape)
        return found.T if self.is_transposed else found


@dataclass(frozen=True)
class RawScan:
    """Which array of a file is which; nothing is checked or changed yet.

    Attributes:
        patterns: (N, H, W), (N, H, W, 1) or (H, W, N), an array or `StoredPatterns`.
        positions_px: (N, 2) of (y, x) in object pixels; or `positions_m`, about the centre of the
            object array.
        probe: In any order of axes that its shape tells, or None.
        object_: (Y, X) or (layers, Y, X), or None; `truth` likewise.
        bad_pixels: (H, W) or (N, H, W), not zero where bad, or, with `is_good_mask`, where good.
        pixel_size_m: (y, x) of the object.
        object_center_m: (y, x) of the middle of the object array.
        kind: What the patterns are, where the file says so: counts, intensity or amplitude.
        source: The file with the patterns, where it is not the path that was asked for.
        probe_variations: (V, H, W), and `probe_weights` (N, 1 + V), of a varying probe.
    """

    patterns: Any
    positions_px: NDArray[Any] | None = None
    probe: NDArray[Any] | None = None
    object_: NDArray[Any] | None = None
    bad_pixels: NDArray[Any] | None = None
    is_good_mask: bool = False
    positions_m: NDArray[Any] | None = None
    pixel_size_m: tuple[float, float] | None = None
    object_center_m: tuple[float, float] = (0.0, 0.0)
    truth: NDArray[Any] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    kind: str | None = None
    source: Path | None = None
    probe_variations: NDArray[Any] | None = None
    probe_weights: NDArray[Any] | None = None


def flag(
    help_text: str, *, default: Any = None, type_: type = str, metavar: Any = None, number: int = 1
) -> Any:
    """Returns a field of `ReadOptions` that is a flag of the command line as well."""
    told = {'help': help_text, 'type': type_, 'metavar': metavar, 'number': number}
    return field(default=default, metadata=told)


@dataclass(frozen=True)
class ReadOptions:
    """What the user says of a file; each is a flag of the command line, in the same words.

    Attributes:
        positions: What is done to the positions.
    """

    product: Path | None = flag(
        'product of the patterns (default: that beside them)', type_=Path, metavar='FILE'
    )
    patterns_format: str | None = flag(
        'theirs, by its name in Ptychodus (see the command formats)',
        metavar='F',
    )
    positions_file: Path | None = flag('file of the positions', type_=Path, metavar='FILE')
    positions_format: str | None = flag('its format (default: by its ending)', metavar='NAME')
    energy_ev: float | None = flag('photon energy', type_=float, metavar='EV')
    distance_m: float | None = flag('from sample to detector', type_=float, metavar='M')
    detector_pixel_um: tuple[float, ...] | None = flag(
        'detector pixel, height and width where they differ', type_=float, metavar='UM', number=2
    )
    center: tuple[float, float] | None = flag(
        'detector pixel of the beam, about which --crop keeps pixels',
        type_=float,
        metavar=('Y', 'X'),
        number=-2,
    )
    probe_preset: str | None = flag(
        'optics of the host that make the probe where the file has none', metavar='NAME'
    )
    crop: int | None = flag(
        'detector pixels to keep in the middle, per side', type_=int, metavar='PIXELS'
    )
    bin: int | None = flag(
        'detector pixels to add up, per side, after --crop', type_=int, metavar='FACTOR'
    )
    diffraction_kind: DiffractionKind = flag(
        'what the patterns are, if it is not told', default='auto'
    )
    gain: float | None = flag(
        'detector units per photon (default: as the numbers say)', type_=float, metavar='UNITS'
    )
    saturation: float | None = flag(
        'value from which on the detector cannot be trusted', type_=float, metavar='VALUE'
    )
    bad_pixels: Path | None = flag(
        'mask, not zero where bad: .npy, .npz, .tif or .h5', type_=Path, metavar='FILE'
    )
    invert_mask: bool = flag('the mask is not zero where pixels are good', default=False)
    allow_links: bool = flag('follow links of an HDF5 file out of its own folder', default=False)
    positions: PositionTransform = PositionTransform()

    def __post_init__(self) -> None:
        for name in ('energy_ev', 'distance_m', 'gain', 'saturation'):
            value = getattr(self, name)
            if value is not None and not (0.0 < value < numpy.inf):
                raise ValueError(f'--{name.replace("_", "-")} is {value:g}: it must be positive.')
        pixel = self.detector_pixel_um or (1.0,)
        if not 1 <= len(pixel) <= 2 or not all(0.0 < value < numpy.inf for value in pixel):
            raise ValueError('--detector-pixel-um takes one or two positive numbers, y and x.')
        if self.diffraction_kind not in ('auto', 'counts', 'amplitude'):
            raise ValueError(
                f'diffraction_kind is {self.diffraction_kind!r}: it is auto, counts or amplitude.'
            )

    def given(self) -> dict[str, Any]:
        """Returns what differs from the defaults, by name."""
        return {
            name: value
            for name, value in vars(self).items()
            if value != type(self).__dataclass_fields__[name].default
        }
