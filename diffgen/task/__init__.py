"""Tasks: what a sampler is used for.

    generate       sigma(1) z -> x0
    variations     alpha_t x0 + sigma_t z -> x0'            SDEdit, t = the strength
    denoise        x_t of known sigma -> draws of p(x0 | x_t)
    interpolate    states between two ends -> a strip of images
    inpaint        known pixels -> all pixels
    colorize       a known grey channel -> three channels

A `Task` makes images by number, the same ones in any batch; an `Edit` starts from pictures, which
`InputImages` loads. Inpainting and colorization share the settings of `conditioning` and its two
rules: one replaces the known pixels by noised ones (RePaint), `mmps` conditions the estimate of x0
on them. `times` has the times of a task that starts between noise and image.
"""
