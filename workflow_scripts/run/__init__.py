"""How programs run. See README.md."""
