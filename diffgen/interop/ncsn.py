"""The names of NCSN's and NCSNv2's code for the parameters of our RefineNets."""

from torch import nn

CONDITIONAL = ("embed.weight",)
UNCONDITIONAL = ("gamma", "alpha", "beta")

STAGES = {4: (1, 2, 3, 4), 5: (1, 2, 3, 4, 5), 6: (1, 2, 3, 31, 4, 5)}
REFINES = {4: (1, 2, 3, 4), 5: (1, 2, 3, 4, 5), 6: (1, 2, 31, 3, 4, 5)}
RESIDUAL = {
    ("first", "norm"): "normalize1",
    ("first", "conv"): "conv1",
    ("second", "norm"): "normalize2",
    ("second", "conv"): "conv2",
    ("shortcut",): "shortcut",
}


def ncsn_names(network: nn.Module, norm: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Their names for each key of `network`; `norm` names the parts of an InstanceNorm++."""
    names = {}
    for key in network.state_dict():
        module, leaf = key.rsplit(".", 1)
        path = module.removeprefix("body.").split(".")
        name = _module(path, network.get_submodule("body"))
        names[key] = tuple(f"{name}.{part}" for part in (norm if leaf == "table" else [leaf]))
    return names


def _module(path: list[str], body: nn.Module) -> str:
    depth = len(list(body.get_submodule("stages").children()))
    match path:
        case ["begin" | "end" as end]:
            return f"{end}_conv"
        case ["stages", stage, index, *part]:
            block = body.get_submodule(f"stages.{stage}.{index}")
            # Where the grid is halved, their convolution sits inside a pooling module.
            pooled = ".conv" if block.halves and part[-1] != "norm" and part[0] != "first" else ""
            return f"res{STAGES[depth][int(stage)]}.{index}.{RESIDUAL[tuple(part)]}{pooled}"
        case ["refines", step, *part]:
            return f"refine{REFINES[depth][int(step)]}.{_refine(part)}"
        case _:
            return "normalizer"


def _refine(path: list[str]) -> str:
    match path:
        case ["adapt", index, "blocks", block, unit, part]:
            return f"adapt_convs.{index}.{int(block) + 1}_{int(unit) + 1}_{part}"
        case ["out", "blocks", block, unit, part]:
            return f"output_convs.{int(block) + 1}_{int(unit) + 1}_{part}"
        case ["fuse", "units", index, part]:
            return f"msf.{part}s.{index}"
        case ["context", kind, index]:
            return f"crp.{kind}.{index}"
        case _:
            raise KeyError(".".join(path))
