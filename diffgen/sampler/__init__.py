"""Samplers: the way back from noise to image, each a loop over times."""

from diffgen.sampler.base import Sampler
from diffgen.sampler.noise import SeededNoise

__all__ = ["Sampler", "SeededNoise"]
