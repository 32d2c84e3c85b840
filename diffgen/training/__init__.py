"""Training: the loss, the random numbers, the averages of weights, and what is kept of a run."""
