"""Guidance: denoisers into a denoiser that leans toward a label; samplers never hear of it."""
