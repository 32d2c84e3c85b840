"""Where images come from, and in which order training sees them.

A source (`digits`, `cifar10`, `folder`, ...) gives `Images` by `split("train" | "test")`: 8-bit
pixels (N, C, H, W) in memory or decoded on access, labels and class names where they are known,
and a fingerprint that changes with the content. `Batches` turns them into training batches, a
function of the seed, the step and the position in the global batch alone. `pixels.Range` is the
only change between bytes and the numbers that a model sees.
"""

# Choices of dataset= that share a file; every other one stands in the file of its name.
SHARED_FILES = {
    **dict.fromkeys(("cifar10", "cifar100", "fashion_mnist", "mnist", "svhn"), "torchvision_sets"),
    **dict.fromkeys(("celeba", "ffhq", "lsun"), "photographs"),
}
