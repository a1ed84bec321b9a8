"""Attaches reconstructor libraries of other distributions to Ptychodus; never raises into it."""

from __future__ import annotations

import logging
from typing import Any


def register_plugins(registry: Any) -> None:
    """Attaches every library of the group `ptychodus.reconstructor_libraries`."""
    try:
        from ptychodus_pinn_torch.host.attach import attach

        attach()
    except (Exception, SystemExit):
        logging.getLogger('ptychodus_pinn_torch').exception('PINN-Torch could not be attached.')
