"""Samplers: from noise to an image, each a loop over times 1 >= t > s > ... >= 0.

They solve the probability-flow ODE or the reverse-time SDE (Song et al. 2021). With a constant
estimate x0 between t and s the ODE's solution is

    x_s = alpha_s x0 + sigma_s eps
        = (sigma_s / sigma_t) x + (alpha_s - alpha_t sigma_s / sigma_t) x0

(`base.first_order`: DDIM, Euler), and the SDE's adds noise of the posterior's variance:

    x_s = alpha_s x0 + sqrt(sigma_s^2 - std^2) eps + std z

- First order: ddim, euler, ddpm, euler_maruyama. Heun corrects a step by the slope at its end.
- Multistep, from earlier estimates: dpmpp_2m, dpmpp_3m, dpmpp_2m_sde (x0), deis (eps), unipc.
- Adaptive, over the angle atan(sigma / alpha): rk45. Langevin dynamics: langevin, consistent, pc.

`SeededNoise` gives each image its own stream. `start` makes the first state, `encode` runs the ODE
from image to noise, `likelihood` integrates its divergence, `tuned` searches for the best times.
"""

from diffgen.sampler.base import Sampler
from diffgen.sampler.noise import SeededNoise

__all__ = ["Sampler", "SeededNoise"]
