"""What sampling cannot see: onset rates, log-odds at the slot, and verdicts. See README.md."""
