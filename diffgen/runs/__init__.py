"""What lies on the disk of a run: checkpoints, cells, tuned times."""
