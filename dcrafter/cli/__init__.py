"""The command line: `app` registers the commands, one module each; they share `options`, `run` and `console`."""
