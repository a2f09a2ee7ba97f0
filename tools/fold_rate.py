"""How many batch norms `cnn_ext.freeze` folds in torchvision's and timm's networks, and why.

    python tools/fold_rate.py [--only NAME ...] [--torchvision] [--timm] [--quick]

A batch norm follows a convolution or a linear layer directly if, when the model is called, it is given
the very tensor that the layer returned. Weights are random, statistics too. For each model: how many
batch norms follow a layer so, how many of these `freeze` folded, how far outputs differ (in float32,
relative to the norm of the output), and for each reason how many were not folded.
"""

import argparse
import collections
import sys
import time
import warnings

import torch

import cnn_ext
from cnn_ext.models import norms

TIMM = [
    "resnet18", "resnet26d", "resnet50", "resnet50t", "resnetaa34d", "resnetblur18", "resnetrs50",
    "resnext26ts", "seresnet18", "ecaresnet26t", "seresnext26d_32x4d", "wide_resnet50_2",
    "gcresnet33ts", "resnet33ts", "eca_resnet33ts", "seresnet33ts", "resnet50_clip", "resnet51q",
    "gernet_s", "repvgg_a0", "mobileone_s0", "regnetz_c16", "test_byobnet", "regnetx_002",
    "regnety_002", "regnetx_004_tv", "regnety_004", "regnetv_040", "regnetz_005", "efficientnet_b0",
    "efficientnet_b1_pruned", "efficientnet_lite0", "efficientnet_es", "efficientnet_cc_b0_4e",
    "efficientnet_blur_b0", "efficientnet_x_b3", "efficientnetv2_rw_t", "gc_efficientnetv2_rw_t",
    "tf_efficientnet_b0", "tf_efficientnet_lite0", "tf_efficientnetv2_b0",
    "tf_efficientnet_cc_b0_4e", "fbnetc_100", "mixnet_s", "tf_mixnet_s", "mnasnet_050",
    "semnasnet_075", "spnasnet_100", "mobilenet_edgetpu_100", "mobilenetv1_100", "mobilenetv2_050",
    "tinynet_e", "test_efficientnet", "fbnetv3_b", "lcnet_050", "mobilenetv3_large_100",
    "mobilenetv3_small_050", "mobilenetv3_rw", "tf_mobilenetv3_small_075", "mobilenetv4_conv_small",
    "mobilenetv4_conv_aa_medium", "mobilenetv4_hybrid_medium", "hardcorenas_a", "ghostnet_050",
    "ghostnetv2_100", "densenet121", "dla34", "dla46x_c", "dla60_res2net", "dpn48b", "dpn68",
    "hrnet_w18_small", "cspresnet50", "cspresnext50", "cspdarknet53", "cs3darknet_s",
    "cs3darknet_focus_s", "cs3edgenet_x", "darknet53", "cspnext_tiny", "hgnet_tiny", "hgnetv2_b0",
    "inception_resnet_v2", "inception_v3", "inception_v4", "nasnetalarge", "pnasnet5large",
    "res2net50_14w_8s", "res2next50", "resnest14d", "rexnet_100", "rexnetr_200", "selecsls42",
    "selecsls60b", "legacy_seresnet18", "legacy_seresnext26_32x4d", "skresnet18",
    "skresnext50_32x4d", "tresnet_m", "vgg11_bn", "vgg13_bn", "ese_vovnet19b_dw", "ese_vovnet39b",
    "eca_vovnet39b", "legacy_xception", "xception41", "xception65p", "repghostnet_050",
    "repvit_m0_9", "starnet_s1", "fasternet_t0", "lcnetv2_small", "resnetv2_18", "visformer_tiny",
    "convmixer_768_32", "mobilevit_xxs", "fastvit_t8", "shvit_s1", "efficientvit_b0",
]  # fmt: skip
TORCHVISION_MORE = [
    "fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large", "r3d_18", "mc3_18",
    "r2plus1d_18", "s3d", "ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn_v2", "quantized_resnet18",
]  # fmt: skip
QUICK = {"resnet18", "efficientnet_b0", "mobilenetv3_small_050", "densenet121", "tf_efficientnet_lite0"}


def torchvision_models():
    """Names and builders of torchvision's convolutional networks that have batch norms."""
    import torchvision

    without = ("vit_", "swin", "convnext", "alexnet", "squeezenet", "maxvit")
    names = [n for n in torchvision.models.list_models(module=torchvision.models)
             if not n.startswith(without)
             and n not in ("vgg11", "vgg13", "vgg16", "vgg19")]  # fmt: skip
    biggest = ("regnet_y_128gf", "regnet_y_32gf", "regnet_x_32gf", "efficientnet_b7", "efficientnet_b6",
               "efficientnet_v2_l", "efficientnet_b5", "regnet_y_16gf", "regnet_x_16gf")  # fmt: skip
    for name in [n for n in names if n not in biggest] + TORCHVISION_MORE:
        arguments = {}
        if name in ("googlenet", "inception_v3"):
            arguments = {"init_weights": False}
        elif any(part in name for part in ("fcn", "deeplab", "lraspp", "rcnn", "retina", "ssd")):
            arguments = {"weights_backbone": None}
        yield name, lambda n=name, a=arguments: torchvision.models.get_model(n, weights=None, **a)


def timm_models():
    """Names and builders of timm's."""
    import timm

    known = set(timm.list_models())
    for name in TIMM:
        if name in known:
            yield name, lambda n=name: timm.create_model(n, pretrained=False)


def set_statistics(model):
    """Batch norms as training leaves them."""
    for module in model.modules():
        if norms.is_norm(module) and module.running_mean is not None:
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.8, 1.2)


def inputs_for(name, model):
    """An image, or whatever the model takes."""
    if name in ("r3d_18", "mc3_18", "r2plus1d_18"):
        return (torch.randn(1, 3, 16, 64, 64),)
    if name == "s3d":
        return (torch.randn(1, 3, 16, 224, 224),)
    if any(
        part in name for part in ("rcnn", "retina", "ssd")
    ):  # untrained, their boxes' order is chance
        return ([torch.rand(3, 96, 96)],)
    size = 64
    if "inception" in name or "nasnet" in name:
        size = 96
    if any(part in name for part in ("visformer", "mobilevit", "hybrid", "shvit")):
        size = 224
    return (torch.randn(2, 3, size, size),)


def directly_following(model, inputs):
    """The batch norms that are given what a convolution or a linear layer returned, and the output."""
    given, found, handles = {}, {}, []

    def returned(module, _, output):
        if isinstance(output, torch.Tensor):
            given[id(output)] = (output, module)

    def receives(module, arguments):
        if arguments and id(arguments[0]) in given:
            found.setdefault(module, given[id(arguments[0])][1])

    for module in model.modules():
        if norms.is_layer(module):
            handles.append(module.register_forward_hook(returned))
        elif norms.is_norm(module):
            handles.append(module.register_forward_pre_hook(receives))
    with torch.no_grad():
        output = model(*inputs)
    for handle in handles:
        handle.remove()
    names = {module: name for name, module in model.named_modules()}
    return {names[norm]: names[layer] for norm, layer in found.items()}, output


def difference(a, b):
    """Of two outputs, relative to the second's norm; the largest of its parts."""
    a, b = (torch.utils._pytree.tree_leaves(x) for x in (a, b))
    pairs = [(x.double(), y.double()) for x, y in zip(a, b, strict=False) if x.shape == y.shape]
    return max(((x - y).norm() / y.norm().clamp(min=1e-30)).item() for x, y in pairs)


def measure(name, build):
    """Prints a row; gives how many follow a layer, and how many of these were folded."""
    start = time.perf_counter()
    torch.manual_seed(0)
    model = build().eval()
    set_statistics(model)
    inputs = inputs_for(name, model)
    follow, expected = directly_following(model, inputs)
    began = time.perf_counter()
    frozen = cnn_ext.freeze(model)
    took = time.perf_counter() - began
    folded = {n for n, m in frozen.named_modules() if isinstance(m, cnn_ext.models.pending.Folded)}
    with torch.no_grad():
        error = difference(frozen(*inputs), expected)
    report = frozen.report()
    left = [n for n in follow if n not in folded]
    reasons = collections.Counter(report.left.get(n, "?") for n in left)
    print(f"{name:34} {len(follow):5} {len(follow) - len(left):5} {len(folded):5} "
          f"{report.batch_norms:5} {error:8.0e} {took:6.1f} s"
          f"{time.perf_counter() - start:6.1f} s", flush=True)  # fmt: skip
    for reason, times in reasons.items():
        example = next(n for n in left if report.left.get(n, "?") == reason)
        print(f"    {times} x {reason} ({example} after {follow[example]})", flush=True)
    return len(follow), len(follow) - len(left)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="names of models")
    parser.add_argument("--torchvision", action="store_true", help="torchvision's alone")
    parser.add_argument("--timm", action="store_true", help="timm's alone")
    parser.add_argument("--quick", action="store_true", help="a handful")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    sources = [torchvision_models] * (not options.timm) + [timm_models] * (not options.torchvision)
    print(f"{'model':34} {'after':>5} {'fold':>5} {'all f':>5} {'norms':>5} {'error':>8} freeze  total")
    total = collections.Counter()
    for source in sources:
        sums = [0, 0, 0]
        for name, build in source():
            if (options.only and name not in options.only) or (options.quick and name not in QUICK):
                continue
            try:
                after, folded = measure(name, build)
            except Exception as error:  # a model that cannot be built or run is said, and left
                print(f"{name:34} {type(error).__name__}: {str(error)[:150]}", flush=True)
                total["failed"] += 1
                continue
            sums = [sums[0] + 1, sums[1] + after, sums[2] + folded]
        print(f"{source.__name__}: {sums[0]} models, {sums[2]} of {sums[1]} batch norms that directly "
              f"follow a layer folded: {sums[2] / max(sums[1], 1):.1%}")  # fmt: skip
    sys.exit(total["failed"] > 0)


if __name__ == "__main__":
    main()
