"""Where images come from, and in which order training sees them.

A source (`digits`, `cifar10`, `folder`, ...) gives `Images` by `split("train" | "test")`;
`Batches` turns them into training batches, as a function of the seed and the step alone.
"""
