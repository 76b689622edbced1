"""What holds for every test, and in part for the processes that tests start."""

from __future__ import annotations

import gc
import os

# PyTorch reads these two when it is imported, which no test module has done yet. Pytest runs a process for
# every processor, so a second thread in each only gets in the way of the others. It also decides the order of
# sums, and tests compare the bytes of several processes.
os.environ["OMP_NUM_THREADS"] = "1"

# torch.export remembers what operators do to shapes. With free sizes that takes longer than asking again: a
# tiny model is exported in three quarters of the time without, into the same bytes.
os.environ["TORCH_FAKE_TENSOR_DISPATCH_CACHE"] = "0"

# PyTorch, Transformers and the networks that tests share are some million objects. By default all of them are
# looked through again and again while a model is exported, which took a fifth of the time.
gc.set_threshold(20_000, 20, 50)
