"""Training: minimises E[w(t) |F(x_t, t, label) - target|^2] over images, noise and times.

The loss takes clean images x0 (b, C, H, W) in the model's range and gives an error for each. What
is drawn at a step (times, noise, label drops, dropout) is a function of the seed, the step and the
position in the global batch alone, so that a resumed run repeats the unbroken one to the bit on
any number of devices. Callbacks average the weights, save checkpoints, report and draw previews.
"""
