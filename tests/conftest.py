"""What holds for every test, and for the processes that tests start.

PyTorch reads both when it is imported, which no test module has done yet.
"""

from __future__ import annotations

import os

# Pytest runs a process for every processor, so a second thread in each only gets in the way of the others. It
# also decides the order of sums, and tests compare the bytes of several processes.
os.environ["OMP_NUM_THREADS"] = "1"

# torch.export remembers what operators do to shapes. With free sizes that takes longer than asking again: a
# tiny model is exported in three quarters of the time without, into the same bytes.
os.environ["TORCH_FAKE_TENSOR_DISPATCH_CACHE"] = "0"
