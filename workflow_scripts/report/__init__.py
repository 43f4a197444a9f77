"""What a person reads. See README.md."""
