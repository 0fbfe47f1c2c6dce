"""Real llm-compressor on fixture T. The interpreter comes from HARNESS_QUANTIZE_PYTHON, else .venv-quantize.

Two processes in all: tests/quantize/driver.py makes the fixtures and builds the small jobs with one import of torch;
then `python -m quantize` builds a grid as a user's run would.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.checkpoints.headers import PACKED, tensors
from harness.checkpoints.readable import readable
from harness.checkpoints.verify import structure, verify
from tests.quantize.driver import FAMILIES

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("HARNESS_QUANTIZE_PYTHON", ROOT / ".venv-quantize" / "bin" / "python"))
QUICK = {"n_grid": 3}
"""A short search: what is built is the same in kind."""
ALONE: dict[str, dict[str, Any]] = {
    "minmax": {"observer": "minmax", **QUICK},
    "rtn": {"method": "rtn"},
    "asym": {"group_size": 32, "symmetric": False, **QUICK},
    "channel": {"method": "rtn", "group_size": -1},
}
"""Cells of the grid below that are also built alone: one after a search it shares, those after others changed things."""
BROKEN = {**QUICK, "mappings": [{"smooth": "re:.*language_model.*layernorm$", "balance": ["re:.*language_model.*q_proj$"]}]}
"""Two norms for one set of Linears: llm-compressor fails in the middle of its work."""


SCHEMES: dict[str, tuple[dict[str, Any], str, bool]] = {
    "gptq": ({"method": "gptq", "group_size": 32}, "INT4, group 32, symmetric", True),
    "fp8": ({"method": "fp8"}, "FP8, per channel, activations FP8 per token", False),
    "fp8_static": ({"method": "fp8", "scales": "static"}, "FP8, per tensor, activations FP8 per tensor (stored scales)", True),
    "fp8_block": ({"method": "fp8", "scales": "block"}, "FP8, blocks of 128 x 128, activations FP8 group 128", False),
    "int8": ({"method": "int8"}, "INT8, per channel, activations INT8 per token", False),
    "smooth": ({"method": "int8", "smoothing": 0.5}, "INT8, per channel, activations INT8 per token", True),
    "nvfp4a16": ({"method": "nvfp4a16"}, "NVFP4, group 16", False),
    "nvfp4": ({"method": "nvfp4"}, "NVFP4, group 16, activations NVFP4 group 16", True),
    "mxfp4a16": ({"method": "mxfp4a16"}, "MXFP4, group 32", False),
    "mxfp4": ({"method": "mxfp4"}, "MXFP4, group 32, activations MXFP4 group 32", False),
}
"""Recipes beside awq and rtn: their fields, what the checkpoint says it is, and whether they calibrate."""


KEPT = ["re:.*visual.*", "lm_head", "re:.*embed_tokens$"]
"""What a recipe leaves in high precision by default."""


def cell(folder: Path, name: str, **recipe: Any) -> dict[str, Any]:
    return {"name": name, "recipe": recipe, "output": str(folder / "out" / name)}


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver's folder with everything built: T, tied, sick, out/*, results.json."""
    if not PYTHON.is_file():
        pytest.skip(f"no quantize environment at {PYTHON}")
    folder = tmp_path_factory.mktemp("quantize")
    pictures(folder / "data")
    local = {"dataset": str(folder / "data"), "samples": 8, "max_seq_length": 64}
    demo = {"dataset": "demo", "samples": 3}
    t = str(folder / "T")
    jobs = {
        "awq": {"source": t, "calibration": local, "cells": [cell(folder, "awq", **QUICK)]},
        "text_only": {"source": t, "calibration": demo | {"images": False}, "cells": [cell(folder, "text_only", **QUICK)]},
        "nothing_left": {
            "source": t,
            "calibration": demo | {"max_seq_length": 32},
            "cells": [cell(folder, "nothing_left", **QUICK)],
        },
        "sick": {
            "source": str(folder / "sick"),
            "calibration": demo,
            "cells": [cell(folder, "sick", **QUICK), cell(folder, "sick_rtn", method="rtn")],
        },
        "stranger": {"source": str(folder / "stranger"), "cells": [cell(folder, "stranger", method="rtn")]},
        "schemes": {
            "source": t,
            "calibration": demo,
            "cells": [cell(folder, name, **recipe) for name, (recipe, _, _) in SCHEMES.items()],
        },
        **{
            name: {
                "source": str(folder / name),
                "calibration": demo,
                "cells": [
                    cell(folder, f"{name}_awq8", num_bits=8, group_size=32, **QUICK),
                    cell(folder, f"{name}_rtn", method="rtn", group_size=32),
                ],
            }
            for name in FAMILIES
        },
        "tied": {"source": str(folder / "tied"), "cells": [cell(folder, "tied", method="rtn")]},
        **{
            f"single_{name}": {"source": t, "calibration": demo, "cells": [cell(folder, f"single_{name}", **recipe)]}
            for name, recipe in ALONE.items()
        },
    }
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run([PYTHON, "-m", "tests.quantize.driver", str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="session")
def results(work: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((work / "results.json").read_text())
    return found


@pytest.fixture(scope="session")
def grid(work: Path) -> subprocess.CompletedProcess[str]:
    """A grid through the command line; its second cell fails."""
    (work / "out" / ".g_mse.abcdefgh").mkdir(parents=True)
    job = {
        "source": str(work / "T"),
        "calibration": {"dataset": "demo", "samples": 3},
        "cells": [
            cell(work, "g_mse", **QUICK),
            cell(work, "g_broken", **BROKEN),
            cell(work, "g_minmax", **ALONE["minmax"]),
            cell(work, "g_rtn", **ALONE["rtn"]),
            cell(work, "g_twin", method="rtn", ignore=[*KEPT, "re:.*visual.*blocks.*"]),
            cell(work, "g_asym", **ALONE["asym"]),
            cell(work, "g_channel", **ALONE["channel"]),
            cell(work, "g_imatrix", method="rtn", observer="imatrix_mse"),
            cell(work, "g_noise", method="noise", noise_std=0.2),
        ],
    }
    (work / "grid.json").write_text(json.dumps(job))
    return subprocess.run([PYTHON, "-m", "quantize", str(work / "grid.json")], cwd=ROOT, capture_output=True, text=True)


def pictures(folder: Path) -> None:
    """Five pictures of 32 by 32 (4 tokens each on T) and three that expand past 64 tokens."""
    from PIL import Image

    folder.mkdir()
    rows = []
    for i in range(8):
        side = 32 if i < 5 else 192
        Image.new("RGB", (side, side), (30 * i, 90, 200 - 20 * i)).save(folder / f"{i}.png")
        rows.append({"question": "hue?", "answer": "red", "image": f"{i}.png"})
    (folder / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def manifest(work: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((work / "out" / name / "manifest.json").read_text())
    return found


def test_awq_packs_the_language_linears_and_nothing_else(work: Path, results: dict[str, Any]):
    assert results["awq"]["failed"] == 0 and results["awq"]["refused"] == []
    out = work / "out" / "awq"
    assert verify(out, work / "T").faults == [] and readable(out) == []
    found = structure(out)
    assert (found.packed, found.plain) == ({"language": 14}, {"lm_head": 1, "visual": 12})
    assert (found.num_bits, found.group_size, found.symmetric) == (4, 128, True)
    config = json.loads((out / "config.json").read_text())
    assert "re:.*visual.*" in config["quantization_config"]["ignore"]
    assert {k: v for k, v in config.items() if k != "quantization_config"} == json.loads((work / "T/config.json").read_text())
    assert "AWQModifier" in (out / "recipe.yaml").read_text()


def test_the_tokenizer_is_the_sources_and_a_large_picture_gives_the_same_ids(work: Path, results: dict[str, Any]):
    for path in (work / "T").iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            assert (work / "out/awq" / path.name).read_bytes() == path.read_bytes()
    tokenizer = json.loads((work / "out/awq/tokenizer.json").read_text())
    assert tokenizer["truncation"] is None and tokenizer["padding"] is None
    ids = results["large_picture"]
    assert len(ids["T"]) > 64 and ids["T"] == ids["out/awq"]


def test_long_samples_are_dropped_whole_and_counted(work: Path):
    facts = manifest(work, "awq")["calibration"]
    assert (facts["used"], facts["dropped_too_long"], facts["images"], facts["asked"]) == (5, 3, 5, 8)
    assert len(facts["sha256"]) == 64 and facts["tokens"] <= 5 * 64


def test_text_only_calibration_warns(work: Path, results: dict[str, Any]):
    assert results["text_only"]["failed"] == 0
    assert any("text-only" in e["message"] for e in results["text_only"]["events"] if e["kind"] == "warning")
    assert manifest(work, "text_only")["calibration"]["images"] == 0


def test_no_sample_left_is_refused(work: Path, results: dict[str, Any]):
    assert "all 3 samples are longer than max_seq_length 32" in results["nothing_left"]["refused"][0]
    assert not (work / "out" / "nothing_left").exists()


def test_an_absurd_norm_weight_fails_and_names_the_layer(work: Path, results: dict[str, Any]):
    assert results["sick"]["failed"] == 2
    failed = [e["message"] for e in results["sick"]["events"] if e["kind"] == "cell_failed"]
    assert all("layers.1.input_layernorm.weight" in line and "1e+30" in line for line in failed) and len(failed) == 2
    assert not (work / "out/sick").exists() and not (work / "out/sick_rtn").exists()


def test_a_model_that_transformers_does_not_know_is_refused(results: dict[str, Any]):
    (line,) = results["stranger"]["refused"]
    assert "cannot be loaded" in line and "NoSuchModel" in line


def test_tied_embeddings_stay_tied(work: Path, results: dict[str, Any]):
    assert results["tied"]["failed"] == 0
    assert "lm_head.weight" not in tensors(work / "out/tied") and verify(work / "out/tied", work / "tied").faults == []


def test_a_failing_cell_is_named_and_the_grid_goes_on(work: Path, grid: subprocess.CompletedProcess[str]):
    assert grid.returncode == 1, grid.stderr[-3000:]
    events = [json.loads(line) for line in grid.stdout.splitlines()]
    assert [e["cell"] for e in events if e["kind"] == "cell_failed"] == ["g_broken"]
    assert len([e for e in events if e["kind"] == "cell_done"]) == 8
    assert any(e.get("steps") == 2 and e.get("step") == 2 for e in events)
    folders = {p.name for p in (work / "out").iterdir() if p.is_dir() and "g_" in p.name}
    assert folders == {"g_mse", "g_minmax", "g_rtn", "g_twin", "g_asym", "g_channel", "g_imatrix", "g_noise"}


@pytest.mark.parametrize("name", ["g_mse", "g_minmax", "g_rtn", "g_twin", "g_asym", "g_channel", "g_imatrix", "g_noise"])
def test_every_cell_is_whole(work: Path, grid: subprocess.CompletedProcess[str], name: str):
    out = work / "out" / name
    assert verify(out, work / "T").faults == [] and readable(out) == []
    made = manifest(work, name)
    assert made["versions"]["llmcompressor"] and made["source"]["path"] == str(work / "T")
    if name != "g_noise":
        config = json.loads((out / "config.json").read_text())["quantization_config"]["config_groups"]["group_0"]
        assert config["weights"]["observer"] == made["recipe"]["observer"]


def test_observers_differ_in_config_and_tensors_and_twins_are_called_twins(work: Path, grid: subprocess.CompletedProcess[str]):
    mse, minmax, rtn, twin = (manifest(work, n) for n in ("g_mse", "g_minmax", "g_rtn", "g_twin"))
    assert len({m["quantized_sha256"] for m in (mse, minmax, rtn)}) == 3
    assert twin["quantized_sha256"] == rtn["quantized_sha256"]
    assert twin["notes"] == ["no effect: its quantized tensors equal those of cell g_rtn"]
    assert any("no effect" in line for line in grid.stdout.splitlines())
    assert mse["notes"] == minmax["notes"] == []


@pytest.mark.parametrize("name", list(ALONE))
def test_a_cell_of_a_grid_equals_the_same_cell_built_alone_in_every_byte(
    work: Path, results: dict[str, Any], grid: subprocess.CompletedProcess[str], name: str
):
    assert results[f"single_{name}"]["failed"] == 0
    assert manifest(work, f"single_{name}")["files"] == manifest(work, f"g_{name}")["files"]


def test_packing_in_pieces_equals_llm_compressors_own(results: dict[str, Any]):
    assert results["packed_alike"] == dict.fromkeys(["g32", "asymmetric", "channel", "3 bit", "bias"], True)


def test_joined_inputs_find_the_same_scales(results: dict[str, Any]):
    assert results["replay_difference"] < 1e-5


def test_the_plan_told_the_size(work: Path, grid: subprocess.CompletedProcess[str]):
    from quantize.fit import plan_recipe
    from tests.helpers.recipes import recipe

    for name in ("g_mse", "g_asym", "g_channel"):
        _, facts = plan_recipe(work / "T", recipe(**manifest(work, name)["recipe"]))
        stored = sum(t.nbytes for t in tensors(work / "out" / name).values())
        assert facts.expected_bytes == stored


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_is_built_whole_and_as_large_as_the_plan_told(work: Path, results: dict[str, Any], name: str):
    from quantize.fit import plan_recipe
    from tests.helpers.recipes import recipe

    given, words, calibrates = SCHEMES[name]
    assert results["schemes"]["failed"] == 0, results["schemes"]["events"]
    folder = work / "out" / name
    assert verify(folder, work / "T").faults == []
    found = structure(folder)
    assert found.scheme == words and found.packed == {"language": 14} and found.maker == "compressed-tensors"
    assert (manifest(work, name)["calibration"] is not None) is calibrates
    faults, facts = plan_recipe(work / "T", recipe(**given), "blackwell")
    assert faults == [] and facts.scheme == words and sum(facts.kernels.values()) == 14
    assert facts.expected_bytes == sum(t.nbytes for t in tensors(folder).values())


@pytest.mark.parametrize("name", FAMILIES)
def test_another_family_is_built_under_its_own_names(work: Path, results: dict[str, Any], name: str):
    assert results[name]["failed"] == 0 and results[name]["refused"] == []
    source = work / name
    for product in (work / f"out/{name}_awq8", work / f"out/{name}_rtn"):
        assert verify(product, source).faults == [] and structure(product).packed == {"language": 14}
        stored = {one.name for one in tensors(source).values()}
        built = {one.name for one in tensors(product).values()}
        assert {one for one in built if not one.endswith(PACKED)} <= stored
        assert {f"{one.rpartition('.')[0]}.weight" for one in built if one.endswith(PACKED)} <= stored
    assert manifest(work, f"{name}_awq8")["search"]["mappings"] >= 4
    # Scales that norms and Linears share cancel out, whatever form the norm has; 8 bits leave little of rounding.
    assert results["close"][name] < 0.3
