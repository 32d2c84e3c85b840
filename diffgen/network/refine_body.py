"""A whole RefineNet on images in [0, 1]: stages down, refinement up.

Song and Ermon 2019, appendix A; Song and Ermon 2020, appendix A.
"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from diffgen.errors import UsageError
from diffgen.network.refine import Given, Norm, Refine, RefineStyle, Residual

Stages = tuple[tuple[int, int], ...]

STANDARD: Stages = ((1, 1), (2, 1), (2, 2), (2, 4))
DEEPER: Stages = ((1, 1), (2, 1), (2, 1), (4, 2), (4, 4))
DEEPEST: Stages = ((1, 1), (2, 1), (2, 1), (2, 1), (4, 2), (4, 4))


class RefineBody(nn.Module):
    """x (B, channels, size, size) in [0, 1], given -> (B, out_channels, size, size).

    A stage is (times `width` channels, dilation). The first keeps the image's resolution; a later
    one halves it if its dilation is 1 and keeps it otherwise. Refinement starts at the last stage,
    and each step ends with the channels of the stage above. UsageError for too small a size.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        out_channels: int,
        width: int,
        stages: Stages,
        style: RefineStyle,
    ) -> None:
        super().__init__()
        _check(size, stages)
        widths = [width * multiplier for multiplier, _ in stages]
        dilations = [dilation for _, dilation in stages]
        self.begin = nn.Conv2d(channels, width, 3, padding=1)
        entries = zip(pairwise([width, *widths]), dilations, strict=True)
        self.stages = nn.ModuleList(
            _stage(before, after, dilation, style.norm, enters=index > 0)
            for index, ((before, after), dilation) in enumerate(entries)
        )
        self.refines = _refines(widths, style)
        self.norm = style.norm(width)
        self.end = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, x: Tensor, given: Given) -> Tensor:
        x = self.begin(2 * x - 1)
        maps = []
        for stage in self.stages:
            first, second = stage.children()
            x = second(first(x, given), given)
            maps.append(x)
        refined = []
        for refine in self.refines:
            refined = [refine([maps.pop(), *refined], given)]
        return self.end(F.elu(self.norm(refined[0], given)))


def _stage(before: int, after: int, dilation: int, norm: Norm, enters: bool) -> nn.ModuleList:
    first = Residual(before, after, dilation, norm, enters)
    return nn.ModuleList((first, Residual(after, after, dilation, norm, enters=False)))


def _refines(widths: list[int], style: RefineStyle) -> nn.ModuleList:
    """Refinement steps from the last stage to the first."""
    steps, refined = nn.ModuleList(), []
    for own, above in pairwise([*reversed(widths), widths[0]]):
        steps.append(Refine([own, *refined], above, style, last=len(steps) == len(widths) - 1))
        refined = [above]
    return steps


def _check(size: int, stages: Stages) -> None:
    halvings = sum(dilation == 1 for _, dilation in stages[1:])
    least = 2 ** (halvings + 1)
    if size < least:
        raise UsageError(
            f"images of {size} pixels are too small to be halved {halvings} times: use {least} "
            "or more, or a network.depth that halves less often"
        )
