"""Guidance: denoisers into a denoiser, so that samplers need not know of it.

    classifier-free    (1 + w) D(x, c) - w D(x, null)          Ho and Salimans 2022
    autoguidance       (1 + w) D(x, c) - w D_weak(x, c)        Karras et al. 2024
    classifier         D(x, c) + w sigma^2 / alpha grad ln p(c | x_t)  Dhariwal and Nichol 2021

The first two are `weight.guide(cond, uncond, w)`. eps, score and v are affine in x0, so guiding x0
guides each of them by the same weight: w = -1 is unconditional, 0 conditional, above 0 guided; the
papers' scale is 1 + w. `Weight` limits w to an interval of sigma / alpha. `checks` refuses
requests that cannot be met, before anything is sampled.
"""
