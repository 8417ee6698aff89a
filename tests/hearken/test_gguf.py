"""A model in a GGUF file becomes an ordinary folder with the same weights, tokens and template, once."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from hearken.models.gguf import convert, converted, folder_of, main

HIDDEN, INNER, HEADS, VOCABULARY = 64, 96, 2, 259
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def write_gguf(file: Path) -> dict[str, Any]:
    """A Llama of one block with random weights in float32; its weights by their names in the file."""
    gguf = pytest.importorskip("gguf")
    import numpy

    draw = numpy.random.default_rng(0)
    shapes = {
        "token_embd": (VOCABULARY, HIDDEN),
        "blk.0.attn_norm": (HIDDEN,),
        "blk.0.ffn_norm": (HIDDEN,),
        "output_norm": (HIDDEN,),
        **{f"blk.0.attn_{part}": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")},
        **{f"blk.0.ffn_{part}": (INNER, HIDDEN) for part in ("gate", "up")},
        "blk.0.ffn_down": (HIDDEN, INNER),
    }
    weights = {name: draw.standard_normal(shape, dtype=numpy.float32) for name, shape in shapes.items()}
    letters = [chr(256 + i) for i in range(VOCABULARY - 3)]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "</s>", *letters, "Āā"])
    writer.add_token_merges(["Ā ā"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    for name, values in weights.items():
        writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def test_it_has_the_same_weights_and_template_and_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file

    weights = write_gguf(tmp_path / "small.gguf")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = converted(tmp_path / "small.gguf")
    made = load_file(folder / "model.safetensors")
    given = torch.from_numpy(weights["blk.0.ffn_down"])
    assert torch.equal(made["model.layers.0.mlp.down_proj.weight"], given.bfloat16())
    assert (folder / "chat_template.jinja").read_text() == TEMPLATE
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
    (folder / "mark").touch()
    assert converted(tmp_path / "small.gguf") == folder
    assert (folder / "mark").exists()
    (tmp_path / "small.gguf").touch()  # another file now, for all that one can see
    assert not (folder_of(tmp_path / "small.gguf") / "mark").exists()


def test_of_two_at_once_one_works_and_one_waits(tmp_path: Path) -> None:
    write_gguf(tmp_path / "small.gguf")
    folder, seen = tmp_path / "made", []
    (tmp_path / ".made.partial").mkdir()  # of one that was killed
    (tmp_path / ".made.partial" / "old").touch()

    def ask() -> None:
        convert(tmp_path / "small.gguf", folder)
        seen.append(sorted(file.name for file in folder.iterdir()))

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert seen[0] == seen[1]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(seen[0])
    assert "old" not in seen[0]
    assert not (tmp_path / ".made.partial").exists()


def test_a_file_that_breaks_off_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_gguf(tmp_path / "small.gguf")
    with (tmp_path / "small.gguf").open("r+b") as file:
        file.truncate(5000)
    assert main([str(tmp_path / "small.gguf"), str(tmp_path / "made")]) == 1
    assert capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_without_the_package_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "small.gguf").write_bytes(b"GGUF\3\0\0\0")
    bare = (
        "import sys; sys.modules['gguf'] = None; from hearken.models.gguf import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", bare, str(tmp_path / "small.gguf"), str(tmp_path / "made")]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("needs the package gguf to be read; pip install gguf")
