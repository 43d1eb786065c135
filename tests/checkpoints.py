"""Small checkpoints of families of the package transformers, with random weights and a tokenizer of bytes."""

import json
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

SIZES = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 512,
}  # fmt: skip
GROUPED = SIZES | {"num_key_value_heads": 2}


LLAMA = {
    "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "vocab_size": 300,
}  # fmt: skip


def described(folder: Path, **said: Any) -> Path:
    """A new folder with all that is read of a checkpoint before its weights, which are none."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA | said))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("---\ntags: [x]\nlicense: apache-2.0\n---\nlicense: mit\n")
    return folder


def _tokenizer() -> dict[str, Any]:
    """A token for each byte, as GPT-2's vocabulary writes bytes."""
    from memexp.data.tokenizers.published import ALPHABET

    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [
            {"id": 256, "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": ALPHABET, "merges": [],
        },
    }  # fmt: skip


def with_random_weights(config: Any) -> Any:
    """A decoder of this config, with weights so large that attention is far from uniform."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                spread = 1.0 if len(parameter) == SIZES["vocab_size"] else 0.2
                parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@cache
def checkpoint(family: str = "Llama", **said: Any) -> Path:
    """The folder of a checkpoint of a family, made once."""
    import transformers

    folder = Path(tempfile.mkdtemp(prefix=f"memexp-{os.getpid()}-")) / f"Tiny-{family}"
    config = getattr(transformers, f"{family}Config")(**{**GROUPED, **said})
    with_random_weights(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder
