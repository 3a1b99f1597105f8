"""Export: the encoder of a finished run as a file that torchvision, timm, safetensors or ONNX Runtime loads."""

from __future__ import annotations

from torch import nn

from border.terminal import Terminal
from jobs.options.export_encoder import Command
from jobs.planning.cli import show_commands, show_summary
from jobs.planning.run_folder import read_run, require_finished
from vicreg.exchange.encoder_file import load_encoder
from vicreg.exchange.foreign_formats import ONNX_OPSET, Checked, Trained, export
from vicreg.model import INCEPTIONS, num_features, num_parameters
from vicreg.one_branch import branch
from vicreg.run_files import encoder_path

INCEPTION_OPTIONS = "aux_logits=False, init_weights=False"  # without the second classifier, whose weights are not there


def carry_out(command: Command) -> int:
    """Read, write, check, say how to load it; returns the exit code."""
    console = Terminal()
    config, recipe = read_run(command.run)
    require_finished(command.run)
    model = branch(config.model, command.encoder)
    path = encoder_path(command.run, "" if command.encoder == "a" else command.encoder)
    trained = Trained(load_encoder(path), model, config.data, f"{path}, recipe {recipe}")
    checked = export(trained, command.format, command.out)
    show_summary(console, summary(trained, command, checked))
    show_commands(console, "load it with", how_to_load(trained, command))
    return 0


def summary(trained: Trained, command: Command, checked: Checked) -> list[tuple[str, str]]:
    """What was written, what it takes, what it gives, and how it was checked."""
    data = trained.data
    shape = f"{trained.model.in_channels}, {data.image_size}, {data.image_size}"
    kind = "" if trained.model.channels else "RGB, "
    mean, std = (", ".join(map(str, values)) for values in (data.mean, data.std))
    files = [command.out] if command.out.is_file() else list(command.out.iterdir())
    size_mb = sum(file.stat().st_size for file in files) / 1e6
    said = "not: there is no onnxruntime here (pip install onnxruntime)"
    if checked.reader:
        differ = f"differ by at most {checked.difference:.1e}" if checked.difference else "are the same"
        said = f"read back with {checked.reader}: features {differ} (the largest is {checked.largest:.4g})"
    opset = f", opset {ONNX_OPSET}" if command.format == "onnx" else ""
    return [
        ("encoder", f"{trained.model.encoder}, {num_parameters(trained.encoder) / 1e6:.1f} M parameters"),
        ("written", f"{command.out} ({size_mb:.1f} MB{opset})"),
        (
            "input",
            f"images (batch, {shape}), {kind}values from 0 to 1 less mean ({mean}), over std ({std})",
        ),
        ("output", f"features (batch, {num_features(trained.encoder)})"),
        ("checked", said),
    ]


def how_to_load(trained: Trained, command: Command) -> list[str]:
    """Lines of Python that load the file without this suite, where its format lets them."""
    path, model = command.out, trained.model
    if command.format == "timm":
        return [f'model = timm.create_model("local-dir:{path}", pretrained=True, num_classes=0)']
    if command.format == "onnx":
        return [
            f'session = onnxruntime.InferenceSession("{path}")',
            'features = session.run(None, {"images": images})[0]',
        ]
    if command.format == "detectron2":
        mean, std = ([round(255 * value, 3) for value in values] for values in (trained.data.mean, trained.data.std))
        return [
            f'cfg.MODEL.WEIGHTS = "{path}?matching_heuristics=True"',
            f'cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = "RGB", {mean}, {std}',
            "cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False",
        ]
    if command.format == "safetensors":
        small = f", small_images=True, stem_padding={model.stem_padding}" if model.small_images else ""
        made = f'build_encoder("{model.encoder}"{small})'
        if not model.is_plain:
            kinds = f', encoder_norm="{model.encoder_norm}", colours="{model.colours}"'
            made = f'encoder_by_config(vicreg.config.ModelConfig("{model.encoder}"{small}{kinds}))'
        return [
            f"encoder = vicreg.model.{made}",
            f'encoder.load_state_dict(safetensors.torch.load_file("{path}"))',
        ]
    lines = [f"model = torchvision.models.{model.encoder}({INCEPTION_OPTIONS if model.encoder in INCEPTIONS else ''})"]
    if model.small_images:
        channels = trained.encoder.get_submodule("conv1").out_channels
        lines.append(f"model.conv1 = torch.nn.Conv2d(3, {channels}, 3, padding=1, bias=False)")
        lines.append("model.maxpool = torch.nn.Identity()")
    classifier = [place for place, module in trained.encoder.named_modules() if isinstance(module, nn.Identity)][-1]
    lines.append(f'model.set_submodule("{classifier}", torch.nn.Identity())')
    return [*lines, f'model.load_state_dict(torch.load("{path}", weights_only=True))']
