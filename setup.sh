#!/bin/sh
# Make .venv in this folder and install Arch-Net into it, at the versions of constraints.txt.
#
#   ./setup.sh         what `archnet quickstart` needs
#   ./setup.sh dev     that, and what the tests need
#
# PYTHON=/path/to/python3.12 ./setup.sh takes that interpreter. Where Debian's package python3-venv
# is missing it is installed with apt-get; nothing else outside this folder is touched.
set -eu
cd "$(dirname "$0")"

case "${1-}" in
  "") extras=quickstart ;;
  dev) extras=quickstart,dev ;;
  *) echo "setup.sh: unknown argument '$1' (there is only: dev)" >&2; exit 2 ;;
esac

new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

python=''
for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
  if new_enough "$candidate"; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
  echo "setup.sh: no Python 3.11 or newer among: ${PYTHON:-python3 python3.13 python3.12 python3.11}" >&2
  echo "  fix: install one, or name it: PYTHON=/path/to/python3.11 ./setup.sh" >&2
  exit 2
fi

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  echo "setup.sh: $python has no venv module; installing Debian's package for it"
  package="python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
  as_root=''
  [ "$(id -u)" -eq 0 ] || as_root=sudo
  $as_root apt-get update -q && $as_root apt-get install -q -y "$package" || {
    echo "setup.sh: $package could not be installed" >&2
    echo "  fix: install it as root: apt-get install $package" >&2
    exit 2
  }
fi

new_enough .venv/bin/python || "$python" -m venv --clear .venv
.venv/bin/python -m pip install -c constraints.txt --editable ".[$extras]"
