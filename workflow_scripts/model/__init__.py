"""The model: loading, engines, training. See README.md."""
