"""The command line, `fxscale`: one file per command, each a thin layer over the library."""
