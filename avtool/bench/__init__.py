"""What the model costs on this machine: fusion with and without built pairs, and whole training steps."""
