"""What comes from outside. See README.md."""
