"""Whether the host may look at values: on a GPU it would have to wait until the device has computed them."""

from __future__ import annotations

from torch import Tensor


def is_free(tensor: Tensor) -> bool:
    """Whether values of `tensor` can be looked at without waiting for a device.

    Where they can, matching and losses compute the few anchors that count; elsewhere they compute all and mask them.
    Both ways give the same values and gradients up to rounding.
    """
    return tensor.device.type == "cpu"
