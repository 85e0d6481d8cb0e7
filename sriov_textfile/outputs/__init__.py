"""Where the metrics go: once, in a loop, over HTTP."""
