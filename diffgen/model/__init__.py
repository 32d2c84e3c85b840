"""Models: what is left under the noise, and the networks that learn it."""

from diffgen.model.denoiser import Clipped, Denoiser, Preconditioned

__all__ = ["Clipped", "Denoiser", "Preconditioned"]
