"""Schedules: how an image drowns in noise, x_t = alpha(t) x0 + sigma(t) eps."""

from diffgen.schedule.base import Schedule

__all__ = ["Schedule"]
