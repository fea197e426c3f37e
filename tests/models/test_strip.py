"""Stripped networks of ultralytics, against hand-written layers, hand-made counts and plain autograd."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from detector.config.loading import load_config
from detector.config.schema import ModelConfig, TrainConfig
from detector.data.batch import Batch
from detector.data.geometry import Letterbox
from detector.errors import UserError
from detector.gradients.recorder import GradientRecorder
from detector.models.build import build_model, describe, load_model, rebuild
from detector.models.loss import DetectionLoss
from detector.models.strip import Around, strip
from detector.models.yolo import YoloModel
from detector.runtime.ultralytics_import import import_ultralytics
from detector.training.callbacks import Row
from detector.training.schedule import Schedule
from tests.checkpoints import save
from tests.models.test_yolo import IMAGES, NAMES, TARGETS, built, built_anew
from tests.support import ROOT
from tests.training.harness import create_state, train_steps

FAMILIES = ["yolov8n.yaml", "yolov10n.yaml", "yolo11n.yaml", "yolo12n.yaml", "yolo26n.yaml"]
FILES = {path.stem: path for path in (ROOT / "ablations").glob("*.yaml") if path.stem != "sweep"}
# What is left: the sizes of our own trunk and neck, and PyTorch's initialisation, which these have anyway.
REFUSED = {"deep": "model.depths", "narrow_neck": "model.neck_width", "default_init": "model.init=default"}
BATCH = Batch(
    images=(IMAGES * 255).byte(),
    batch_idx=TARGETS["batch_idx"],
    cls=TARGETS["cls"],
    boxes=TARGETS["bboxes"],
    indices=(0, 1),
    letterboxes=(Letterbox(64, 64, 64),) * 2,
)


def backward(model: YoloModel) -> Tensor:
    loss_fn = DetectionLoss(model, TrainConfig(), epochs=1)
    loss: Tensor = loss_fn(model(IMAGES), TARGETS).total
    loss.backward()
    return loss.detach()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolo11n.yaml", "yolo12n.yaml", "yolo26n.yaml"])
def test_every_ablation_trains_and_v_at_initialisation_is_that_of_plain_autograd(name: str) -> None:
    layers = list(built(name).backbone_layers())
    for ablation, file in FILES.items():
        if ablation in REFUSED:
            continue
        config = load_config(file, [f"model.pretrained={name}", "train.steps=3", "gradients.every=1"]).config
        model = built(name, **config.model.model_dump(exclude={"pretrained", "name"}))
        assert list(model.backbone_layers()) == layers
        state = create_state(model, config.train)
        outputs: list[Tensor] = []

        def kept(output: Tensor, outputs: list[Tensor] = outputs) -> None:
            output.requires_grad_().retain_grad() if output.is_leaf else output.retain_grad()
            outputs.append(output)

        for layer in model.backbone_modules():
            layer.register_forward_hook(lambda *io: kept(io[2]))
        rows: list[Row] = []
        outcome = train_steps(
            state,
            DetectionLoss(model, config.train),
            [BATCH] * 3,
            Schedule.from_config(config, 1),
            config.train,
            GradientRecorder(model.backbone_layers()),
            rows.append,
        )
        assert outcome.status == "finished" or ablation == "no_batchnorm_no_clip", ablation
        norms = [float(output.grad.norm()) for output in outputs[: len(layers)]]  # type: ignore[union-attr]
        third = len(norms) // 3
        expected = np.log10(np.median(norms[:third]) / np.median(norms[-third:]))
        assert rows[0]["gradient/vanishing_index"] == pytest.approx(expected, abs=1e-5), ablation
        assert len(rows) == 3 or outcome.status == "diverged", ablation


@pytest.mark.parametrize("ablation", REFUSED)
def test_an_ablation_of_what_a_yolo_does_not_have_is_one_line(ablation: str) -> None:
    with pytest.raises(UserError) as refused:
        config = load_config(FILES[ablation], ["model.pretrained=yolo26n.yaml"]).config
        build_model(config.model, NAMES)
    assert REFUSED[ablation] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_network_from_scratch_is_drawn_as_the_initialisation_says() -> None:
    plain, naive = built_anew("yolo11n.yaml"), built_anew("yolo11n.yaml", init="naive", init_std=0.03)
    predictors = {id(module) for module in naive.predictors()}
    drawn = 0
    for name, module in naive.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        before = plain.get_submodule(name).weight
        if id(module) in predictors or not module.weight.requires_grad:
            assert torch.equal(module.weight, before), name  # type: ignore[arg-type]
        elif module.weight.numel() > 10_000:
            assert module.weight.std().item() == pytest.approx(0.03, rel=0.05), name
            drawn += 1
    assert drawn > 20
    without = built_anew("yolo11n.yaml", init="naive", init_std=0.03, norm="none")
    assert without.net.model[7].conv.weight.std().item() == pytest.approx(0.03, rel=0.05)  # type: ignore[index, union-attr]
    same = built_anew("yolo11n.yaml", init="default", allow_noop=True)
    assert all(map(torch.equal, same.state_dict().values(), plain.state_dict().values()))


def passing_on(model: nn.Module, images: Tensor) -> Iterator[str]:
    """Modules that give their input where what they compute of it is 0: they have an identity shortcut."""
    inputs: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given[0]}))
        for name, module in model.named_modules()
        if list(module.children())
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    for name, given in inputs.items():
        silent = deepcopy(model.get_submodule(name))
        for norm in silent.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.zeros_(norm.weight)
                nn.init.zeros_(norm.bias)
        if isinstance(given, Tensor) and isinstance(out := silent(given), Tensor) and torch.equal(out, given):
            yield name


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_no_block_of_any_family_passes_its_input_on(name: str) -> None:
    net = built(name).net
    before = set(passing_on(net, IMAGES))
    strip(net, shortcut="none")
    assert before
    assert not set(passing_on(net, IMAGES))


def unit(conv: nn.Module, x: Tensor) -> Tensor:
    """Convolution, batch norm by its running statistics and SiLU, written out."""
    c, n = conv.conv, conv.bn
    y = F.conv2d(x, c.weight, None, c.stride, c.padding)  # type: ignore[arg-type]
    y = (y - n.running_mean.view(1, -1, 1, 1)) / torch.sqrt(n.running_var.view(1, -1, 1, 1) + n.eps)  # type: ignore[operator, union-attr]
    y = y * n.weight.view(1, -1, 1, 1) + n.bias.view(1, -1, 1, 1)  # type: ignore[operator, union-attr]
    return y * torch.sigmoid(y)


@torch.no_grad()
def test_a_c2f_without_its_residual_is_the_one_written_by_hand() -> None:
    torch.manual_seed(0)
    block = import_ultralytics("nn.modules").C2f(16, 16, 1, True)
    x = torch.rand(2, 16, 8, 8)
    block(x)  # running statistics of its own
    a, b = unit(block.cv1, x).chunk(2, 1)
    branch = unit(block.m[0].cv2, unit(block.m[0].cv1, b))
    block.eval()
    torch.testing.assert_close(block(x), unit(block.cv2, torch.cat((a, b, b + branch), 1)))
    torch.testing.assert_close(
        strip(block, shortcut="none")(x), unit(block.cv2, torch.cat((a, b, branch), 1))
    )


def zeros_before(x: Tensor, n: int) -> Tensor:
    return torch.cat((*[torch.zeros_like(x)] * n, x), 1)


@torch.no_grad()
def test_a_chain_is_the_block_written_by_hand_with_zeros_for_all_but_its_last_branch() -> None:
    torch.manual_seed(0)
    modules = import_ultralytics("nn.modules")
    x = torch.rand(2, 16, 8, 8)

    def bottleneck(block: nn.Module, x: Tensor) -> Tensor:
        return unit(block.cv2, unit(block.cv1, x))  # type: ignore[arg-type]

    def c3k(block: nn.Module, x: Tensor) -> Tensor:
        branch = bottleneck(block.m[1], bottleneck(block.m[0], unit(block.cv1, x)))  # type: ignore[index, arg-type]
        return unit(block.cv3, torch.cat((branch, torch.zeros_like(branch)), 1))  # type: ignore[arg-type]

    for make, inner in (
        (lambda: modules.C2f(16, 16, 2, True), bottleneck),
        (lambda: modules.C3k2(16, 32, 2, True), c3k),
    ):
        block = make()
        block(x)  # running statistics of its own
        block.eval()
        branch = inner(block.m[1], inner(block.m[0], unit(block.cv1, x).chunk(2, 1)[1]))
        expected = unit(block.cv2, zeros_before(branch, 3))
        torch.testing.assert_close(strip(block, shortcut="chain")(x), expected)
    x = torch.rand(2, 128, 8, 8)
    for block in (modules.C2PSA(128, 128), modules.block.PSA(128, 128), modules.block.A2C2f(128, 128, 1)):
        old = strip(deepcopy(block.eval()), shortcut="none")
        y = old.cv1(x)
        y = y if hasattr(old, "gamma") else y.chunk(2, 1)[1]
        for part in (old.attn, old.ffn) if hasattr(old, "ffn") else old.m:
            y = part(y)
        expected = old.cv2(zeros_before(y, 1))
        torch.testing.assert_close(strip(block, shortcut="chain")(x), expected)
        torch.testing.assert_close(strip(old, shortcut="chain")(x), expected)  # in two steps


@pytest.mark.parametrize(("scope", "share"), [("trunk", 0.91), ("all", 0.83)])  # as docs/any_yolo.md says
def test_a_chain_is_smaller(scope: str, share: float) -> None:
    sizes = [
        sum(p.numel() for p in built("yolo26n.yaml", shortcut=shortcut, scope=scope).parameters())
        for shortcut in ("residual", "chain")
    ]
    assert sizes[1] / sizes[0] == pytest.approx(share, abs=0.005)


def test_a_chain_has_the_weights_that_are_used_and_no_others() -> None:
    whole, plain = built("yolov8n.yaml"), built("yolov8n.yaml", shortcut="chain")
    state, fewer = whole.state_dict(), 0
    for name, block in whole.named_modules():
        if type(block).__name__ == "C2f":  # half its filters, and what was applied to the other branches
            c, (c_out, branches) = block.c, block.cv2.conv.weight.shape[:2]  # type: ignore[union-attr, index]
            fewer += c * block.cv1.conv.in_channels + 2 * c + c_out * (branches - c)  # type: ignore[union-attr, operator]
            kept = plain.get_submodule(f"{name}.cv2.conv").weight
            assert torch.equal(kept, state[f"{name}.cv2.conv.weight"][:, -c:])  # type: ignore[operator, arg-type]
    count = lambda model: sum(p.numel() for p in model.parameters())  # noqa: E731
    assert count(whole) - count(plain) == fewer > 0
    backward(plain)
    trained = [p for p in plain.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.any() for p in trained if p.dim() > 1)
    with pytest.raises(UserError, match="concatenation out of a C2fAttn"):
        strip(import_ultralytics("nn.modules").C2fAttn(16, 16), shortcut="chain")
    with pytest.raises(ValidationError, match=r"is for model\.pretrained"):
        ModelConfig(shortcut="chain")


@torch.no_grad()
@pytest.mark.parametrize("shortcut", ["none", "gated"])
def test_attention_blocks_do_what_they_say_written_by_hand(shortcut: str) -> None:
    torch.manual_seed(0)
    modules = import_ultralytics("nn.modules")
    x = torch.rand(2, 64, 8, 8)

    def around(x: Tensor, f: Tensor) -> Tensor:
        return f if shortcut == "none" else gate * f + (1 - gate) * x

    gate = torch.sigmoid(torch.tensor(-1.0))  # it starts at weight 0 and bias -1
    for block, second in (
        (modules.block.ABlock(64, 2), "mlp"),
        (modules.block.PSABlock(64), "ffn"),
        (modules.block.PSA(128, 128), "ffn"),
    ):
        block.eval()
        old = deepcopy(block)
        new = strip(block, shortcut=shortcut)
        given = x if type(old).__name__ != "PSA" else torch.cat((x, x), 1)
        left, right = old.cv1(given).chunk(2, 1) if type(old).__name__ == "PSA" else (None, given)
        y = around(right, old.attn(right))
        y = around(y, getattr(old, second)(y))
        expected = y if left is None else old.cv2(torch.cat((left, y), 1))
        torch.testing.assert_close(new(given), expected)


@torch.no_grad()
@pytest.mark.parametrize("shortcut", ["none", "gated"])
def test_the_scaled_addition_of_the_large_yolo12_goes(shortcut: str) -> None:
    torch.manual_seed(0)
    block = import_ultralytics("nn.modules").A2C2f(64, 64, 1, True, 1, True).eval()
    x = torch.rand(2, 64, 8, 8)
    old = strip(deepcopy(block), shortcut="none")  # what is inside loses its additions too
    y = old.cv1(x)
    branch = old.cv2(torch.cat((y, old.m[0](y)), 1))
    new = strip(block, shortcut=shortcut)
    if shortcut == "none":
        torch.testing.assert_close(new(x), branch)
        assert not any("gamma" in key for key in new.state_dict())
    else:
        assert isinstance(new, Around)
        t = torch.sigmoid(new.shortcut.gate(x))  # type: ignore[operator, union-attr]
        torch.testing.assert_close(new(x), t * new.block(x) + (1 - t) * x)


def test_parameters_are_those_counted_by_hand() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)
    )
    count = lambda: sum(p.numel() for p in net.parameters())  # noqa: E731
    assert count() == 3 * 8 * 9 + 16 + 8 * 4 + 4 + 8
    strip(net, norm="none")
    assert count() == 3 * 8 * 9 + 8 + 8 * 4 + 4  # the first gets a bias, the second has one
    whole, plain = built("yolov8n.yaml"), built("yolov8n.yaml", norm="none")
    norms = [m for m in whole.modules() if isinstance(m, nn.BatchNorm2d)]
    # A scale and a shift a channel become one bias.
    fewer = sum(norm.num_features for norm in norms)
    sizes = [sum(p.numel() for p in model.parameters()) for model in (whole, plain)]
    assert len(norms) == 57  # of YOLOv8n
    assert sizes[0] - sizes[1] == fewer
    gated = built("yolov8n.yaml", shortcut="gated")
    # Its six bottlenecks with an addition: one at 16, two at 32, two at 64, one at 128 channels.
    gates = sum(n * (c * c + c) for n, c in ((1, 16), (2, 32), (2, 64), (1, 128)))
    assert sum(p.numel() for p in gated.parameters()) - sizes[0] == gates


def test_the_defaults_change_nothing_bit_for_bit() -> None:
    whole = built_anew("yolo26n.yaml")
    again = built_anew(
        "yolo26n.yaml", act="silu", norm="batch", shortcut="residual", scope="all", allow_noop=True
    )
    assert "stripped" not in describe(again)
    assert list(whole.state_dict()) == list(again.state_dict())
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=False)
    )
    assert torch.equal(whole(IMAGES).one2one["boxes"], again(IMAGES).one2one["boxes"])  # type: ignore[union-attr]


def test_weights_that_fit_are_kept_and_the_rest_starts_as_stated() -> None:
    whole = built("yolo11n.yaml")
    state = whole.state_dict()
    for change in ({"shortcut": "none"}, {"act": "relu"}, {"norm": "group"}):
        model = built("yolo11n.yaml", **change)
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items()), change
    plain = built("yolo11n.yaml", norm="none")
    conv = plain.get_submodule("net.model.7.conv")
    assert isinstance(conv, nn.Conv2d)
    fan_in = conv.in_channels * 9
    assert conv.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)  # He
    assert torch.equal(conv.bias, torch.zeros(conv.out_channels))  # type: ignore[arg-type]
    last = "net.model.23.cv2.0.2.weight"  # behind it there was no norm
    assert torch.equal(plain.state_dict()[last], state[last])


@torch.no_grad()
def test_trained_weights_keep_what_they_do_without_their_norms(tmp_path: Path) -> None:
    trained = built("yolo12n.yaml")
    for _ in range(3):
        trained(IMAGES)  # running statistics of its own
    file = save(trained, tmp_path / "best.pt", NAMES)
    model = build_model(ModelConfig(pretrained=str(file), norm="none"), NAMES).model
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(
        model.eval()(IMAGES)["scores"], trained.eval()(IMAGES)["scores"], rtol=1e-3, atol=1e-3
    )


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("yolo12n.yaml", {"shortcut": "none", "norm": "none", "act": "sigmoid"}),
        ("yolo26n.yaml", {"shortcut": "gated", "norm": "weight", "act": "Mish", "scope": "trunk"}),
        ("yolov10n.yaml", {"shortcut": "skipinit", "norm": "group", "scope": "neck_and_head"}),
        ("yolo12n.yaml", {"shortcut": "chain", "norm": "weight", "scope": "trunk"}),
    ],
)
def test_a_checkpoint_of_a_stripped_network_loads_and_can_be_stripped_again(
    tmp_path: Path, name: str, change: dict[str, str]
) -> None:
    model = built(name, **change)
    file = save(model, tmp_path / "best.pt", NAMES)
    loaded = load_model(file).model
    model.eval()
    assert torch.equal(loaded(IMAGES)["boxes"], model(IMAGES)["boxes"])
    tuned = build_model(ModelConfig(pretrained=str(file), act="relu"), NAMES).model
    assert [part.get("act") for part in tuned.stripped] == [change.get("act"), "relu"]
    again = rebuild(describe(tuned), len(NAMES))
    again.load_state_dict(tuned.state_dict())
    assert torch.equal(again.eval()(IMAGES)["boxes"], tuned.eval()(IMAGES)["boxes"])


def test_the_scope_leaves_the_other_part_alone() -> None:
    trunk = built("yolo26n.yaml", norm="none", act="relu", scope="trunk")
    rest = built("yolo26n.yaml", norm="none", act="relu", scope="neck_and_head")
    for model, bare in ((trunk, True), (rest, False)):
        for index, layer in enumerate(model.net.model):  # type: ignore[arg-type]
            kinds = {type(module) for module in layer.modules()}
            if kinds & {nn.SiLU, nn.ReLU}:
                gone = bare == (index < 11)  # YOLO26's backbone has 11 layers
                assert (nn.SiLU in kinds, nn.BatchNorm2d in kinds) == (not gone, not gone), index


def test_our_own_network_is_stripped_as_it_is_built_stripped() -> None:
    small = {"depths": (1, 1, 1, 1)}
    torch.manual_seed(0)
    built_so = build_model(ModelConfig(shortcut="none", act="relu", **small), NAMES).model  # type: ignore[arg-type]
    torch.manual_seed(0)
    stripped = strip(build_model(ModelConfig(**small), NAMES).model, shortcut="none", act="relu")  # type: ignore[arg-type]
    assert torch.equal(built_so(IMAGES)["boxes"], stripped(IMAGES)["boxes"])


class Foreign(nn.Module):
    """A residual block of a stranger's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.use_shortcut = True

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv(x)
        return out


@pytest.mark.parametrize(
    ("make", "change", "problem"),
    [
        (lambda: nn.Sequential(Foreign()), {"shortcut": "none"}, r"shortcut out of 0 \(Foreign\)"),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 1)), {"norm": "none"}, "there is no norm in this network"),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 1)), {"act": "relu"}, "there is no activation"),
        (lambda: nn.Sequential(nn.ReLU()), {"act": "tanh", "scope": "trunk"}, "has no backbone"),
        (lambda: nn.Sequential(nn.ReLU()), {"act": "nothing"}, "nothing is no activation"),
        (lambda: nn.Sequential(nn.LayerNorm(3)), {"norm": "batch"}, "0 is a LayerNorm"),
        (lambda: import_ultralytics("nn.modules").GhostBottleneck(8, 8), {"shortcut": "none"}, "GhostBottl"),
    ],
)
def test_what_cannot_be_stripped_is_said(make: object, change: dict[str, str], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        strip(make(), **change)  # type: ignore[operator, arg-type]


def test_what_is_not_there_stops_unless_it_is_allowed() -> None:
    nowhere = {"shortcut": "none", "scope": "neck_and_head"}  # YOLOv8's neck has no additions
    with pytest.raises(UserError, match=r"model\.shortcut=none: there is no residual addition in this neck"):
        built("yolov8n.yaml", **nowhere)
    model = built("yolov8n.yaml", **nowhere, allow_noop=True)
    assert torch.equal(model(IMAGES)["boxes"], built("yolov8n.yaml")(IMAGES)["boxes"])  # type: ignore[call-overload, index]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"act": "tailored_relu"}, "shaped for the depth of our own trunk"),
        (
            {"pretrained": "yolov8n.pt", "init": "xavier"},
            "brings its weights; init is for a network",
        ),
        ({"depths": (1, 1, 1, 1)}, "brings its own architecture"),
    ],
)
def test_keys_that_would_do_nothing_beside_pretrained_are_refused(
    change: dict[str, object], problem: str
) -> None:
    with pytest.raises(ValidationError, match=problem):
        ModelConfig(**{"pretrained": "yolov8n.yaml"} | change)  # type: ignore[arg-type]


@pytest.mark.parametrize("parts", [3, [3], [{"act": 3}], [{"norm": []}], [{"model": 1}], [{"scope": "x"}]])
def test_a_damaged_note_of_what_was_stripped_is_one_line(parts: object) -> None:
    compact = {"kind": "compact", "model": ModelConfig(depths=(1, 1, 1, 1)).model_dump(mode="json")}
    with pytest.raises(UserError):
        rebuild(compact | {"stripped": parts}, len(NAMES))
