# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Find the operations that make the CPU wait for a GPU. This works on any device."""

import traceback
from collections import Counter

from torch.utils._python_dispatch import TorchDispatchMode


# Operators whose result the CPU needs: a value or a number of elements.
WAITING = {"_local_scalar_dense", "equal", "masked_select", "nonzero", "unique_dim", "_unique2"}


class Waits(TorchDispatchMode):
    """Count these operations in `found`, by operator and by the calling line of code outside PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in WAITING:
            frames = [frame for frame in traceback.extract_stack()[:-1] if "/torch/" not in frame.filename]
            self.found[name, f"{frames[-1].filename}:{frames[-1].lineno}"] += 1
        return func(*args, **(kwargs or {}))
