"""Networks: raw torch modules F(x, c_noise, label), without schedule or prediction.

    x (B, C, H, W), c_noise (B,) or None, label (B,) or None -> (B, out_channels, H, W)

- unet: DDPM's, with the options of its successors. Its residual blocks get
  emb = silu(MLP(sinusoid(c_noise)) + embedding(label)), added to their features or as their scale
  and shift (`embedding`, `blocks`, `layers`, `resample`).
- song_unet: DDPM++ and NCSN++, of the same blocks, with scaled sums (`pyramid`).
- mp_unet: EDM2's, whose layers keep magnitudes (`mp_blocks`, `mp_layers`).
- dit: a transformer of image patches, scaled, shifted and gated by emb (`tokens`).
- dilated: residual blocks of dilated convolutions at one resolution.
- ncsn_refinenet, refinenet: the NCSN papers', with InstanceNorm++ (`refine_body`).
- classifier, classifier_unet: logits (B, num_classes) in place of an image.

Label num_classes, or None, is "no label". The network sees c_in x_t and never x_t itself: what F
stands for is decided in diffgen.denoiser.
"""
