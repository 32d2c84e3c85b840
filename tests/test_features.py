"""Extractors of features against independent implementations, on random weights."""

import hashlib
import urllib.error
from types import SimpleNamespace

import pytest
import torch
import torchvision
from running import here
from torch import nn
from torch.nn import functional as F
from torch_fidelity import feature_extractor_inceptionv3 as fidelity_inception
from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc
from torch_fidelity.feature_extractor_clip import MODEL_METADATA, build_model
from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2
from torch_fidelity.interpolate_compat_tensorflow import (
    interpolate_bilinear_2d_like_tensorflow1x as tensorflow,
)

from diffgen.dataset.images import Images
from diffgen.errors import UsageError
from diffgen.evaluation import dinov2, features, inception
from diffgen.evaluation.clip import ClipExtractor
from diffgen.evaluation.dinov2 import Dinov2Extractor, Vit
from diffgen.evaluation.inception import InceptionExtractor
from diffgen.evaluation.random_network import RandomExtractor
from diffgen.evaluation.reference import reference
from diffgen.evaluation.scoring import score
from diffgen.evaluation.torchvision_network import TorchvisionExtractor


def bytes_of(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def randomised(network, seed=0):
    """The network with weights of which none is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def normalised(images, size, mode):
    x = F.interpolate(images.expand(-1, 3, -1, -1) / 255, (size, size), mode=mode, antialias=True)
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return torchvision.transforms.functional.normalize(x, mean, deviation)


# --- random ---------------------------------------------------------------------------------


def test_random_features_are_the_same_on_every_machine():
    """The numbers of a machine of 2026: Philox words are fixed, so the weights are."""
    extractor = RandomExtractor(dim=16)
    first = extractor.module.filters[0].flatten()[:3]
    torch.testing.assert_close(first, torch.tensor(FIRST), rtol=1e-6, atol=0)
    assert extractor.hash == RandomExtractor(dim=16).hash != RandomExtractor(dim=16, seed=1).hash
    found = extractor(bytes_of(5, 1, 9, 9))
    assert found.features.shape == (5, 16)
    assert found.logits is None


def test_random_weights_keep_the_scale_of_their_input():
    filters = RandomExtractor(dim=256).module.filters
    assert filters[1].std() * (9 * 64 / 2) ** 0.5 == pytest.approx(1, abs=0.02)
    assert filters[1].mean() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("shape", "settings"), [((2, 4, 8, 8), {}), ((2, 3, 7, 9), {})], ids=str)
def test_images_that_random_features_cannot_see_are_refused(shape, settings):
    with pytest.raises(UsageError, match="random features need grey or colour images of 8"):
        RandomExtractor(**settings)(bytes_of(*shape))
    with pytest.raises(UsageError, match="multiple of 4"):
        RandomExtractor(dim=30)


# --- torchvision ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A file of random weights of a ResNet of seven classes, and the network."""
    network = randomised(torchvision.models.resnet18(num_classes=7))
    path = tmp_path_factory.mktemp("resnet") / "weights.pth"
    torch.save(network.state_dict(), path)
    return path, network


def test_a_network_of_torchvision_gives_what_its_last_layer_is_given(resnet):
    path, network = resnet
    extractor = TorchvisionExtractor(network="resnet18", weights=str(path), size=32)
    extractor.batch = 2  # quick
    images = bytes_of(3, 1, 16, 16)
    x = F.interpolate(
        images.expand(-1, 3, -1, -1) / 255, (32, 32), mode="bilinear", antialias=True
    )
    x = torchvision.transforms.functional.normalize(
        x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    found, logits = extractor(images), network(x)
    torch.testing.assert_close(found.logits.float(), logits, rtol=1e-4, atol=1e-4)
    rebuilt = found.features.float() @ network.fc.weight.T + network.fc.bias
    torch.testing.assert_close(rebuilt, logits, rtol=1e-4, atol=1e-4)
    assert (extractor.dim, extractor.name) == (512, "torchvision-resnet18")
    assert not extractor.knows_labels


def test_a_layer_is_averaged_over_positions_and_is_an_identity_of_its_own(resnet):
    path, network = resnet
    plain = TorchvisionExtractor(network="resnet18", weights=str(path), size=32)
    early = TorchvisionExtractor(network="resnet18", weights=str(path), size=32, layer="layer1")
    images = bytes_of(2, 3, 32, 32)
    x = features.resized(images, 32, "bilinear")
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    truth = network.layer1(x).mean((2, 3))
    torch.testing.assert_close(early(images).features.float(), truth, rtol=1e-4, atol=1e-4)
    assert early.hash != plain.hash
    assert early.name == "torchvision-resnet18-layer1"


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({"network": "resnet19"}, "no features.network=resnet19; did you mean resnet1"),
        ({"layer": "layer9"}, "no features.layer=layer9; did you mean layer"),
        ({"network": "resnet34"}, "does not hold the weights of torchvision's resnet34"),
        ({"weights": "absent.pth"}, "features.weights: no file absent.pth"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_weights_that_do_not_fit_get_one_line(settings, answer, resnet):
    with pytest.raises(UsageError, match=answer) as caught:
        TorchvisionExtractor(**{"network": "resnet18", "weights": str(resnet[0]), **settings})
    assert "\n" not in str(caught.value)


def test_a_file_of_weights_runs_no_code(tmp_path):
    class Harm:
        def __reduce__(self):
            return (tmp_path / "harm").touch, ()

    torch.save({"fc.weight": Harm()}, tmp_path / "weights.pth")
    with pytest.raises(UsageError, match="holds more than weights: it is not read"):
        TorchvisionExtractor(network="resnet18", weights=str(tmp_path / "weights.pth"))
    assert not (tmp_path / "harm").exists()


# --- DINOv2 ---------------------------------------------------------------------------------


def plain_dinov2(state, x, heads):
    """DINOv2's network once more, from its paper, with torch's own attention and plain loops."""
    dim = state["cls_token"].shape[-1]
    x = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14)
    grid = state["pos_embed"][:, 1:].reshape(1, 37, 37, dim).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic")
    x = x.flatten(2).mT + grid.flatten(2).mT
    x = torch.cat(((state["cls_token"] + state["pos_embed"][:, :1]).expand(len(x), -1, -1), x), 1)
    for k in range(sum(name.endswith("ls1.gamma") for name in state)):
        own = {n.removeprefix(f"blocks.{k}."): v for n, v in state.items()}
        attention = nn.MultiheadAttention(dim, heads, batch_first=True).eval()
        attention.in_proj_weight.data = own["attn.qkv.weight"]
        attention.in_proj_bias.data = own["attn.qkv.bias"]
        attention.out_proj.weight.data = own["attn.proj.weight"]
        attention.out_proj.bias.data = own["attn.proj.bias"]
        h = F.layer_norm(x, (dim,), own["norm1.weight"], own["norm1.bias"], 1e-6)
        x = x + attention(h, h, h)[0] * own["ls1.gamma"]
        h = F.layer_norm(x, (dim,), own["norm2.weight"], own["norm2.bias"], 1e-6)
        if "mlp.w12.weight" in own:
            gate, value = F.linear(h, own["mlp.w12.weight"], own["mlp.w12.bias"]).chunk(2, -1)
            h = F.linear(F.silu(gate) * value, own["mlp.w3.weight"], own["mlp.w3.bias"])
        else:
            h = F.gelu(F.linear(h, own["mlp.fc1.weight"], own["mlp.fc1.bias"]))
            h = F.linear(h, own["mlp.fc2.weight"], own["mlp.fc2.bias"])
        x = x + h * own["ls2.gamma"]
    return F.layer_norm(x, (dim,), state["norm.weight"], state["norm.bias"], 1e-6)[:, 0]


@pytest.mark.parametrize("gated", [False, True], ids=["mlp", "swiglu"])
def test_dinov2_is_the_network_of_its_paper(gated):
    network = randomised(Vit(24, 2, 3, gated))
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        truth = plain_dinov2(dict(network.named_parameters()), x, 3)
        torch.testing.assert_close(network(x), truth, rtol=1e-4, atol=1e-5)


@pytest.fixture
def small_dinov2(monkeypatch, tmp_path):
    """A file of random weights of a narrow DINOv2, in the place of ViT-B's."""
    monkeypatch.setitem(dinov2.SIZES, "b", (24, 2, 3))
    network = randomised(Vit(24, 2, 3))
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth", network


def test_dinov2_features_are_torch_fidelitys_where_nothing_is_resized(small_dinov2, monkeypatch):
    """Theirs resizes as TensorFlow 1 did; the field's protocol is bicubic."""
    path, network = small_dinov2
    monkeypatch.setattr(torch.hub, "load", lambda *_: network)
    theirs = FeatureExtractorDinoV2("dinov2-vit-b-14", ["dinov2"])
    extractor = Dinov2Extractor(weights=str(path))
    extractor.batch = 2  # quick
    images = bytes_of(2, 3, 224, 224)
    found = extractor(images).features.float()
    torch.testing.assert_close(found, theirs(images)[0], rtol=1e-4, atol=1e-5)
    assert (extractor.name, extractor.dim) == ("dinov2-vit-b-14", 24)
    small = bytes_of(2, 3, 32, 32)
    x = F.interpolate(small / 255, (224, 224), mode="bicubic", antialias=True)
    x = torchvision.transforms.functional.normalize(
        x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(extractor(small).features.float(), network(x), rtol=1e-4, atol=1e-5)


def test_the_sizes_of_dinov2_have_the_published_numbers_of_parameters():
    """Oquab et al.: 21, 86, 300 and 1,100 million."""
    counts = {}
    for size, (dim, depth, heads) in dinov2.SIZES.items():
        with torch.device("meta"):
            network = Vit(dim, depth, heads, gated=size == "g")
        counts[size] = sum(weight.numel() for weight in network.parameters()) / 1e6
    assert counts == pytest.approx({"s": 22.06, "b": 86.58, "l": 304.4, "g": 1136.5}, rel=2e-3)


# --- Inception ------------------------------------------------------------------------------


def test_inception_without_network_names_the_file_and_the_key(monkeypatch, tmp_path):
    def offline(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    with pytest.raises(UsageError) as caught:
        InceptionExtractor()
    text = str(caught.value)
    assert inception.URL_INCEPTION_V3 in text
    assert str(tmp_path / "checkpoints" / inception.FILE) in text.replace("hub/", "")
    assert "features.weights=PATH" in text
    assert "\n" not in text


def test_inception_refuses_other_weights_before_reading_them(tmp_path):
    class Harm:
        def __reduce__(self):
            return (tmp_path / "harm").touch, ()

    torch.save(Harm(), tmp_path / "weights.pth")
    with pytest.raises(UsageError, match=r"not weights-inception-2015-12-05-6726825d\.pth"):
        InceptionExtractor(weights=str(tmp_path / "weights.pth"))
    assert not (tmp_path / "harm").exists()
    with pytest.raises(UsageError, match=r"features.weights: no file"):
        InceptionExtractor(weights=str(tmp_path / "absent.pth"))


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    """A file of random weights, and torch-fidelity's own network with them."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity_inception, "load_state_dict_from_url", lambda *_, **__: {})
        cls = fidelity_inception.FeatureExtractorInceptionV3
        patch.setattr(cls, "load_state_dict", lambda *_: None)
        network = cls("inception-v3-compat", ["2048"])
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        if weight.ndim == 4:  # so that the signal reaches the end
            nn.init.kaiming_normal_(weight, generator=generator)
    network.fc.weight.data *= 1000  # so that classes differ
    torch.save(network.state_dict(), path)
    return path, network


def test_inception_features_are_torch_fidelitys(inception_weights, monkeypatch):
    path, network = inception_weights
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "SHA256", digest)
    images = bytes_of(2, 1, 32, 32)
    extractor = InceptionExtractor(weights=str(path))
    extractor.batch = 2  # quick
    found = extractor(images)
    truth = network(images.expand(-1, 3, -1, -1))[0]
    spread = truth.std()
    assert (found.features.float() - truth).abs().max() < 1e-4 * spread
    assert (extractor.name, extractor.hash) == ("inception", digest[:12])
    logits = truth @ network.fc.weight.T
    assert (found.logits.float() - logits).abs().max() < 1e-3 * logits.std()
    smooth = InceptionExtractor(weights=str(path), antialias=True)
    smooth.batch = 2
    assert smooth.name == "inception-antialias"
    assert (smooth(images).features.float() - truth).abs().max() > 0.01 * spread
    with pytest.raises(UsageError, match="not 2 channels"):
        extractor(bytes_of(2, 2, 32, 32))


# --- figures ---


def varied(size, seed):
    """Thirty images of shades that change slowly, so that their features differ."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 0.8 * torch.rand(30, 3, 4, 4, generator=generator) + 0.1 * seed
    return (255 * F.interpolate(coarse, (size, size), mode="bilinear")).byte()


@pytest.mark.parametrize("name", ["inception", "dinov2"])
def test_figures_are_torch_fidelitys(name, inception_weights, small_dinov2, monkeypatch, tmp_path):
    """Each program's own features of the same images, and its own metrics of them."""
    if name == "inception":
        path, network = inception_weights
        monkeypatch.setattr(inception, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
        monkeypatch.setattr(network, "INPUT_IMAGE_SIZE", 75)  # quick
        extractor, size = InceptionExtractor(weights=str(path)), 32
        extractor.module.INPUT_IMAGE_SIZE = 75
    else:
        path, vit = small_dinov2
        monkeypatch.setattr(torch.hub, "load", lambda *_: vit)
        network = FeatureExtractorDinoV2("dinov2-vit-b-14", ["dinov2"])
        extractor, size = Dinov2Extractor(weights=str(path)), 224  # nothing is resized
    extractor.batch = 30
    mine, real = varied(size, seed=0), varied(size, seed=1)
    against = reference(Images(real, None, (), "made", name), "train", extractor, tmp_path)
    names = ["kid", "precision", "recall", "is" if name == "inception" else "fid"]
    found = score(mine, None, extractor, against, names)
    features = [network(images)[0].double() for images in (mine, real)]
    truth = shares_and_kernel(*features)
    if name == "inception":  # the distance of as many features takes 20 s
        logits = features[0] @ network.fc.weight.T.double()
        truth["is"] = metric_isc.isc_features_to_metric(logits)["inception_score_mean"]
    else:
        parts = [metric_fid.fid_features_to_statistics(part) for part in features]
        truth["fid"] = metric_fid.fid_statistics_to_metric(*parts, False)[FID]
    assert {key: found[key] for key in truth} == pytest.approx(truth, rel=1e-4)
    assert 0 < truth["recall"] < 1
    assert 0 < truth["precision"] < 1


def shares_and_kernel(mine, real):
    """torch-fidelity's precision, recall and kernel distance of features (N, d)."""
    kernel = {"degree": 3, "coef0": 1, "gamma": None}
    options = {f"kid_kernel_poly_{key}": value for key, value in kernel.items()}
    kid = metric_kid.kernel_mmd(real.numpy(), mine.numpy(), kid_kernel="poly", **options)
    shares = metric_prc.prc_features_to_metric(mine, real, verbose=False)
    return {"kid": kid, **{key: shares[key] for key in ("precision", "recall")}}


# --- CLIP -----------------------------------------------------------------------------------


def test_clip_features_are_torch_fidelitys(monkeypatch, tmp_path):
    generator = torch.Generator().manual_seed(0)
    shapes = {
        **{"visual.class_embedding": (64,), "visual.positional_embedding": (5, 64)},
        **{"visual.proj": (64, 12), "visual.conv1.weight": (64, 3, 8, 8)},
        **{f"visual.ln_{k}.{w}": (64,) for k in ("pre", "post") for w in ("weight", "bias")},
    }
    block = "visual.transformer.resblocks.0."
    shapes |= {
        **{f"{block}attn.in_proj_weight": (192, 64), f"{block}attn.in_proj_bias": (192,)},
        **{f"{block}attn.out_proj.weight": (64, 64), f"{block}attn.out_proj.bias": (64,)},
        **{f"{block}mlp.c_fc.weight": (256, 64), f"{block}mlp.c_fc.bias": (256,)},
        **{f"{block}mlp.c_proj.weight": (64, 256), f"{block}mlp.c_proj.bias": (64,)},
        **{f"{block}ln_{k}.{w}": (64,) for k in (1, 2) for w in ("weight", "bias")},
    }
    state = {n: 0.2 * torch.randn(s, generator=generator) for n, s in shapes.items()}
    state["text_projection"] = torch.zeros(4, 12)
    path = tmp_path / "clip.pt"
    path.write_bytes(b"stands for TorchScript")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    scripted = SimpleNamespace(state_dict=lambda: dict(state))
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: scripted)
    with pytest.raises(UsageError, match=r"is not clip-vit-b-32-.*its SHA-256 begins with"):
        ClipExtractor(weights=str(path))
    monkeypatch.setitem(MODEL_METADATA["clip-vit-b-32"], "hash", digest)
    extractor, images = ClipExtractor(weights=str(path)), bytes_of(2, 3, 20, 20)
    extractor.batch = 2  # quick
    visual = build_model(dict(state), torch.float32).visual
    x = tensorflow(images.float(), (16, 16), align_corners=False)
    x = (x / 255 - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]
    torch.testing.assert_close(extractor(images).features.float(), visual(x), rtol=1e-4, atol=1e-5)
    assert (extractor.dim, extractor.hash) == (12, digest[:12])


FID = "frechet_inception_distance"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FIRST = (0.3633059561252594, 0.27761223912239075, -0.3325662612915039)


# --- without a network ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file"),
    {
        "inception": "weights-inception-2015-12-05-6726825d.pth",
        "dinov2": "dinov2_vitb14_pretrain.pth",
        "clip": f"clip-vit-b-32-{MODEL_METADATA['clip-vit-b-32']['hash']}.pt",
        "torchvision": "resnet50-11ad3fa6.pth",
    }.items(),
)
def test_weights_that_cannot_be_had_are_told_before_an_image_is_touched(
    name, file, ddpm, tmp_path, monkeypatch
):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr("diffgen.dataset.digits.Digits.split", lambda *_: 1 / 0)
    words = ("sample", f"checkpoint={ddpm}", "num_samples=2", f"features={name}")
    for line in (here(tmp_path, *words).line(), here(tmp_path, *words, "-m", "steps=2,3").line()):
        assert f"the weights of features={name} cannot be downloaded (no network): put " in line
        assert str(tmp_path / "torch" / "hub" / "checkpoints" / file) in line
        assert f"features={name} features.weights=PATH" in line
        assert "features=random or metrics=[] work" in line
