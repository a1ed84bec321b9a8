"""The one mapping between Ptychodus' product and our arrays, both ways."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy
from numpy.typing import ArrayLike, NDArray

from ..probe_variation import ProbeVariation
from ..scan import Scan

if TYPE_CHECKING:
    from ptychodus.api.object import Object
    from ptychodus.api.probe_positions import ProbePositionSequence
    from ptychodus.api.product import Product

__all__ = [
    'ObjectGrid',
    'ProductArrays',
    'arrays_of_product',
    'grid_of_product',
    'make_host_product',
    'product_of_arrays',
    'with_weights_of',
]

logger = logging.getLogger(__name__)

_NOMINAL_PIXEL_M = 1e-8
_NOMINAL_METADATA = {
    'name': '',
    'comments': '',
    'detector_distance_m': 1.0,
    'photon_energy_eV': 1e4,
    'probe_photon_count': 1.0,
    'exposure_time_s': 0.0,
    'mass_attenuation_m2_per_kg': 0.0,
    'tomography_angle_deg': 0.0,
}


@dataclass(frozen=True)
class ObjectGrid:
    """Where the pixels of an object lie.

    Convention: (y, x). The middle of the array is the point named `center_m`, so that
    `position_px = (position_m - center_m) / pixel_size_m + (shape - 1) / 2`.

    Attributes:
        shape: (Y, X) in pixels.
        pixel_size_m: Height and width of a pixel.
        center_m: Of the middle of the array.
    """

    shape: tuple[int, int]
    pixel_size_m: tuple[float, float]
    center_m: tuple[float, float] = (0.0, 0.0)

    def make_object(self, array: NDArray[Any]) -> Object:
        """Returns Ptychodus' object of one layer that holds the array (Y, X)."""
        from ptychodus.api.object import Object, ObjectCenter

        center = ObjectCenter(x_m=self.center_m[1], y_m=self.center_m[0])
        return Object(array, _make_pixel_geometry(self.pixel_size_m), center, layer_spacing_m=[])

    def to_m(self, positions_px: ArrayLike) -> NDArray[numpy.float64]:
        """Returns positions (N, 2) in metres of those in object pixels."""
        middle_px = (numpy.asarray(self.shape) - 1.0) / 2.0
        return (numpy.asarray(positions_px) - middle_px) * self.pixel_size_m + self.center_m

    def make_positions(
        self, positions_px: ArrayLike, indexes: Sequence[int] | NDArray[numpy.integer]
    ) -> ProbePositionSequence:
        """Returns Ptychodus' positions of those in object pixels (N, 2)."""
        from ptychodus.api.probe_positions import ProbePosition, ProbePositionSequence

        return ProbePositionSequence(
            [
                ProbePosition(int(index), float(x_m), float(y_m), None)
                for index, (y_m, x_m) in zip(indexes, self.to_m(positions_px), strict=True)
            ]
        )


@dataclass(frozen=True)
class ProductArrays:
    """What a product holds, in the package's conventions.

    Attributes:
        positions_px: (N, 2) in object pixels, float64.
        probe: Modes (P, H, W), complex.
        object_: (Y, X), complex.
        pixel_size_m: (y, x) of the object and of the probe.
        object_center_m: (y, x) of the middle of the object.
        metadata: Ptychodus' product metadata by name.
        indexes: (N,) numbers of the positions; counted from zero where None.
        variation: How the first mode of the probe varies over the positions, or None.
    """

    positions_px: NDArray[numpy.float64]
    probe: NDArray[Any]
    object_: NDArray[Any]
    pixel_size_m: tuple[float, float]
    object_center_m: tuple[float, float] = (0.0, 0.0)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    indexes: NDArray[numpy.integer] | None = None
    variation: ProbeVariation | None = None


def grid_of_product(product: Product) -> ObjectGrid:
    """Returns the grid of a product's object."""
    geometry = product.object_.get_geometry()
    return ObjectGrid(
        shape=(geometry.height_px, geometry.width_px),
        pixel_size_m=(geometry.pixel_height_m, geometry.pixel_width_m),
        center_m=(geometry.center_y_m, geometry.center_x_m),
    )


def arrays_of_product(product: Product) -> ProductArrays:
    """Returns the arrays of a product: its first layer and its probe, with how that one varies.

    Further layers are left out and logged; so are weights of the probe that are not as many as
    the positions, since Ptychodus does not leave out those of positions that it leaves out.
    """
    name, probes, object_ = product.metadata.name, product.probes, product.object_
    if object_.num_layers > 1:
        logger.info(
            '%s: the object has %d layers; the first one is used.', name, object_.num_layers
        )
    grid, positions = grid_of_product(product), product.probe_positions
    y_px = object_.get_geometry().map_probe_positions_to_object_y_px(positions)
    x_px = object_.get_geometry().map_probe_positions_to_object_x_px(positions)
    return ProductArrays(
        positions_px=numpy.stack([y_px, x_px], axis=-1),
        probe=probes.get_probe_no_opr().get_array(),
        object_=object_.get_layer(0),
        pixel_size_m=grid.pixel_size_m,
        object_center_m=grid.center_m,
        metadata=asdict(product.metadata),
        indexes=numpy.asarray(positions.get_indexes(), dtype=numpy.int64),
        variation=_find_variation(product),
    )


def _find_variation(product: Product) -> ProbeVariation | None:
    """Returns how the probe varies, where the product says it for each of its positions; logs it."""
    probes, name = product.probes, product.metadata.name
    weights, number = probes.get_opr_weights_or_none(), len(product.probe_positions)
    if weights is not None and len(weights) == number:
        if probes.num_coherent_modes == 1 and (weights == 1.0).all():
            return None
        logger.info(
            '%s: the probe varies over the scan (%d coherent modes): each pattern has its own.',
            name,
            probes.num_coherent_modes,
        )
        return ProbeVariation(probes.get_array()[1:, 0].copy(), weights.astype(numpy.float64))
    if weights is not None:
        logger.warning(
            '%s: the probe varies over the scan, but it has %d rows of weights for %d positions: '
            'they are left out, and every pattern has the first set of modes. Save the product '
            'again with the positions that it was reconstructed with.',
            name,
            len(weights),
            number,
        )
    elif probes.num_coherent_modes > 1:
        logger.info(
            '%s: the probe has %d coherent modes but no weights; the first set is used.',
            name,
            probes.num_coherent_modes,
        )
    return None


def with_weights_of(product: Product, paired: Product) -> Product:
    """Returns a product of paired positions, whose probe has the weights that go with them.

    Ptychodus averages positions of one index and interpolates those that are missing; weights
    follow the same rule. They are left as they are where `product` has not as many as positions.

    Args:
        product: As it was read.
        paired: What Ptychodus has made of its positions for the patterns that there are.
    """
    from ptychodus.api.probe import ProbeSequence

    probes = product.probes
    weights, positions = probes.get_opr_weights_or_none(), product.probe_positions
    if weights is None:
        return paired
    if len(weights) != len(positions):
        _find_variation(product)  # says so
        return replace(paired, probes=ProbeSequence.from_probe(probes.get_probe_no_opr()))
    known, inverse = numpy.unique(positions.get_indexes(), return_inverse=True)
    wanted, counts = paired.probe_positions.get_indexes(), numpy.bincount(inverse)
    matched = numpy.stack(
        [
            numpy.interp(wanted, known, numpy.bincount(inverse, weights=column) / counts)
            for column in weights.T
        ],
        axis=1,
    )
    varying = ProbeSequence(probes.get_array(), matched, probes.get_pixel_geometry())
    return replace(paired, probes=varying)


def product_of_arrays(
    arrays: ProductArrays, losses: ArrayLike | Sequence[tuple[int, float]] = ()
) -> Product:
    """Returns the product that holds the arrays; metadata that is not known is nominal.

    Dtypes are kept. Losses are pairs of epoch and value, which Ptychodus plots.
    """
    from ptychodus.api.diffraction import Polarization
    from ptychodus.api.probe import ProbeSequence
    from ptychodus.api.product import LossValue, Product, ProductMetadata

    shape, probe, weights = arrays.object_.shape, arrays.probe[numpy.newaxis], None
    if arrays.variation is not None:
        modes, weights = arrays.variation.modes, arrays.variation.weights
        others = numpy.zeros((len(modes), *arrays.probe.shape), arrays.probe.dtype)
        others[:, 0] = modes
        probe = numpy.concatenate([probe, others])
    grid = ObjectGrid((shape[0], shape[1]), arrays.pixel_size_m, arrays.object_center_m)
    names = {item.name for item in fields(ProductMetadata)}
    known = {name: value for name, value in arrays.metadata.items() if name in names}
    if known.get('polarization') is not None:
        known['polarization'] = Polarization(known['polarization'])
    indexes = range(len(arrays.positions_px)) if arrays.indexes is None else arrays.indexes
    return Product(
        metadata=ProductMetadata(**{**_NOMINAL_METADATA, **known}),
        probe_positions=grid.make_positions(arrays.positions_px, indexes),
        probes=ProbeSequence(probe, weights, _make_pixel_geometry(arrays.pixel_size_m)),
        object_=grid.make_object(arrays.object_),
        losses=[
            LossValue(int(epoch), float(value)) for epoch, value in numpy.reshape(losses, (-1, 2))
        ],
    )


def make_host_product(
    scan: Scan,
    object_: NDArray[Any],
    positions_px: NDArray[Any],
    probe: NDArray[Any],
    losses: ArrayLike | Sequence[tuple[int, float]] = (),
) -> Product:
    """Returns the product of an image (Y, X) of the scan, complex64.

    Pixel size, centre, numbers of the positions, metadata and how the probe varies are those of the
    scan; where it does not know them, nominal values are taken and logged.
    """
    if scan.pixel_size_m is None:
        logger.info('%s: the pixel size is not known; the product says 10 nm.', scan.name)
    if 'photon_energy_eV' not in scan.metadata:
        logger.info('%s: the photon energy is not known; the product says 10 keV.', scan.name)
    photons = float(numpy.sum(numpy.abs(probe) ** 2))
    indexes = scan.metadata.get('position_indexes')
    if indexes is not None and len(indexes) != len(positions_px):
        indexes = None
    variation = scan.probe_variation
    if variation is not None and (
        len(variation.weights) != len(positions_px) or variation.modes.shape[1:] != probe.shape[-2:]
    ):
        logger.warning(
            '%s: how the probe varies does not fit its positions or modes: it is left out of the '
            'product.',
            scan.name,
        )
        variation = None
    arrays = ProductArrays(
        positions_px=positions_px,
        probe=numpy.asarray(probe, dtype=numpy.complex64),
        object_=numpy.asarray(object_, dtype=numpy.complex64),
        pixel_size_m=scan.pixel_size_m or (_NOMINAL_PIXEL_M, _NOMINAL_PIXEL_M),
        object_center_m=scan.object_center_m,
        metadata={'name': scan.name, 'probe_photon_count': photons, **scan.metadata},
        indexes=indexes,
        variation=variation,
    )
    return product_of_arrays(arrays, losses)


def _make_pixel_geometry(pixel_size_m: tuple[float, float]) -> Any:
    from ptychodus.api.geometry import PixelGeometry

    return PixelGeometry(width_m=float(pixel_size_m[1]), height_m=float(pixel_size_m[0]))
