"""Command line interface: `python -m keras_dmp audit predictions.npz`."""

import sys

from keras_dmp.audit import _command

if __name__ == "__main__":
    sys.exit(_command.main())
