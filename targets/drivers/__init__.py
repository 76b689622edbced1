"""Programs that run inside a toolchain's environment, with its Python and its packages and no Arch-Net.

Each module but `runner` is a driver: functions that take a request (a JSON object) and return a reply. They
are run by `archnet.targets.worker`, exchange arrays by .npz files, and import nothing of this package.
"""
