"""Tasks: what a sampler is asked for."""
