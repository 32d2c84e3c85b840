"""diffgen: generative models by noising and denoising, trained, sampled and measured."""

__version__ = "0.1.0"
