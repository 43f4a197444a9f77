"""The marker. See README.md."""
