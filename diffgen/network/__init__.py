"""Raw networks: (x, noise input, label) -> output, nothing but torch."""
