"""Gather and scatter between canvas and patches."""

from __future__ import annotations

import pytest
import torch

from ptychodus_pinn_torch.physics.canvas import (
    add_patches,
    blank_sum,
    put_patches,
    take_patches,
)

SHAPE = (2, 9, 11)
ROWS = torch.tensor([0, 1, 1, 0])
CORNERS = torch.tensor([[0, 0], [2, 3], [5, 7], [4, 1]])


def random_complex(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.complex128, generator=generator)


def test_take_and_put_are_an_exact_adjoint_pair() -> None:
    canvas, patches = random_complex(*SHAPE), random_complex(4, 4, 4, seed=1)
    taken = take_patches(canvas, ROWS, CORNERS, (4, 4))
    put = put_patches(patches, ROWS, CORNERS, SHAPE)
    left = torch.vdot(taken.flatten(), patches.flatten())
    right = torch.vdot(canvas.flatten(), put.flatten())
    assert torch.allclose(left, right, rtol=1e-13)


def test_take_reads_the_window_at_the_corner_rows_first() -> None:
    canvas = torch.arange(99, dtype=torch.float64).reshape(1, 9, 11)
    patch = take_patches(canvas, torch.tensor([0]), torch.tensor([[2, 3]]), (4, 5))[0]
    assert torch.equal(patch, canvas[0, 2:6, 3:8])


def test_put_adds_where_windows_overlap_and_conserves_the_sum() -> None:
    patches = torch.ones(4, 4, 4, dtype=torch.float64)
    rows, corners = torch.zeros(4, dtype=torch.int64), CORNERS
    canvas = put_patches(patches, rows, corners, (1, 9, 11))
    assert float(canvas.sum()) == 4 * 16
    assert float(canvas.max()) > 1.0


def test_gradients_and_their_gradients_are_right() -> None:
    canvas = random_complex(*SHAPE).requires_grad_()
    patches = random_complex(4, 4, 4).requires_grad_()

    def take(x: torch.Tensor) -> torch.Tensor:
        return take_patches(x, ROWS, CORNERS, (4, 4))

    def put(x: torch.Tensor) -> torch.Tensor:
        return put_patches(x, ROWS, CORNERS, SHAPE)

    assert torch.autograd.gradcheck(take, canvas)
    assert torch.autograd.gradcheck(put, patches)
    assert torch.autograd.gradgradcheck(take, canvas)


@pytest.mark.parametrize('corner', [[-1, 0], [0, 8], [6, 0]])
def test_a_window_outside_the_canvas_is_an_error(corner: list[int]) -> None:
    with pytest.raises(IndexError, match='leaves the canvas'):
        take_patches(random_complex(1, 9, 11), torch.tensor([0]), torch.tensor([corner]), (4, 4))


def test_every_device_path_gives_the_same() -> None:
    from ptychodus_pinn_torch.physics.canvas import _flat_indices

    canvas = random_complex(*SHAPE)
    by_index = canvas.reshape(-1)[_flat_indices(SHAPE, ROWS, CORNERS, (4, 4))]
    assert torch.equal(by_index, take_patches(canvas, ROWS, CORNERS, (4, 4)))


def test_sums_do_not_depend_on_who_adds_up_what() -> None:
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(600, 8, 8, dtype=torch.complex64, generator=generator)
    corners = torch.randint(0, 8, (600, 2), generator=generator)
    rows, shape = torch.zeros(600, dtype=torch.int64), (1, 16, 16)

    def sum_of(chosen: torch.Tensor, blank: torch.Tensor) -> torch.Tensor:
        return add_patches(blank, patches[chosen], rows[chosen], corners[chosen])

    with torch.no_grad():
        for make, is_exact in (
            (lambda: blank_sum(shape, torch.complex64, torch.device('cpu')), True),
            (lambda: torch.zeros(shape, dtype=torch.complex64), False),
        ):
            whole = sum_of(torch.arange(600), make())
            shared = sum(sum_of(torch.arange(600)[part::3], make()) for part in (2, 0, 1))
            whole, shared = (x.to(torch.complex64) for x in (whole, shared))
            assert torch.equal(whole, shared) == is_exact
    assert blank_sum(shape, torch.float32, torch.device('cpu')).dtype == torch.float32  # gradients
