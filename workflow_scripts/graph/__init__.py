"""What the graph is made of. See README.md."""
