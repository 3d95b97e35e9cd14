"""`python -m fxscale`: the command line; `torchrun ... -m fxscale train` on many devices."""

from fxscale.cli.app import main

if __name__ == "__main__":
    main()
