"""The offline study's own things. See README.md."""
