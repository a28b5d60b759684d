"""The command, on a pipeline too small to have learnt anything."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler
from PIL import Image
from tiny_pipelines import PIXELS, make_control_pipeline, make_pipeline, make_pixel_pipeline
from typer.testing import CliRunner

import fastsync as fs
from fastsync.cli import app
from fastsync.methods.syncvc import PRESETS
from fastsync.ops import dispatch
from fastsync.pictures import read_metadata
from fastsync.priors import save_memory

TINY_STEPS = ["--steps", "2", "--seed", "3", "--device", "cpu"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    make_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny_pixels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny_pixels")
    make_pixel_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny_control(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny_control")
    make_control_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_one_sentence(result, folder, *words, exit_code=1):
    assert result.exit_code == exit_code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.startswith("fastsync: ")]
    assert len(lines) == 1
    assert "Traceback" not in result.output
    for word in words:
        assert word in lines[0]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("method", ["syncvc", "multidiffusion", "independent"])
def test_wide_writes_a_picture_that_says_how_to_make_it_again(tiny, here, method):
    arguments = ["--width", 50, "--overlap", 4, "--negative", "rain", "--guidance", 3]
    result = run("wide", "dunes at dawn", "--model", tiny, "--method", method, *arguments, *TINY_STEPS, "-o", "a.png")
    assert result.exit_code == 0, result.output
    assert "a.png: 50x16 pixels" in result.stdout
    assert [file.name for file in here.iterdir()] == ["a.png"]
    metadata = read_metadata("a.png")
    wanted = {
        "prompt": "dunes at dawn", "negative_prompt": "rain", "width": 50, "height": PIXELS, "overlap": 4, "seed": 3,
        "method": method, "num_inference_steps": 2, "guidance_scale": 3, "model": tiny, "dtype": "float32",
    }  # fmt: skip
    assert {name: metadata[name] for name in wanted} == wanted
    assert metadata["versions"]["fastsync"] == fs.__version__
    again = fs.SyncPipeline.from_pretrained(metadata["model"], device="cpu").wide(
        metadata["prompt"], progress=False,
        **{name: metadata[name] for name in (
            "negative_prompt", "width", "height", "overlap", "seed", "method", "num_inference_steps", "guidance_scale",
        )},
    )  # fmt: skip
    with Image.open("a.png") as picture:
        assert picture.tobytes() == again.images[0].tobytes()


def test_a_seed_that_was_not_given_is_recorded(tiny, here):
    result = run("wide", "dunes", "--model", tiny, "--method", "independent", "--steps", 1, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert isinstance(read_metadata("out.png")["seed"], int)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--width", "-5"], ["width", "-5"]),
        (["--height", "0"], ["height", "0"]),
        (["--width", str(PIXELS - 2)], ["width", "window"]),
        (["--overlap", "-1"], ["overlap", "-1"]),
        (["--overlap", str(PIXELS)], ["overlap", "window"]),
        (["--steps", "0"], ["num_inference_steps"]),
        (["--guidance", "nan"], ["guidance_scale"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["--method", "sync"], ["method", "'sync'", "multidiffusion"]),
        (["--dtype", "int8"], ["dtype", "int8", "bfloat16"]),
        (["--solver", "rk4"], ["solver", "rk4", "'ddim'"]),
        (["--device", "abacus"], ["device", "abacus", "doctor"]),
        (["-o", "missing/a.png"], ["missing", "no folder"]),
        (["-o", "a.gif"], ["a.gif", ".png"]),
        (["-o", "x" * 300 + ".png"], ["cannot be written"]),
    ],
)
def test_bad_input_is_one_sentence(tiny, here, arguments, words):
    assert_one_sentence(run("wide", "dunes", "--model", tiny, *TINY_STEPS, *arguments), here, *words)


def test_a_scheduler_of_another_form_runs_by_ddim_when_asked_to(tmp_path, monkeypatch):
    model, here = tmp_path / "model", tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    pipe = make_pipeline()
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config)
    pipe.save_pretrained(model)
    assert_one_sentence(run("wide", "dunes", "--model", model, *TINY_STEPS), here, "PNDMScheduler", "solver='ddim'")
    result = run("wide", "dunes", "--model", model, "--solver", "ddim", *TINY_STEPS, "-o", "a.png")
    assert result.exit_code == 0, result.output
    metadata = read_metadata("a.png")
    assert (metadata["scheduler"], metadata["solver"]) == ("PNDMScheduler", "ddim")


def test_an_unknown_model_is_one_sentence(here, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_one_sentence(run("wide", "dunes", "--model", "nobody/nothing"), here, "nobody/nothing")


def test_usage_errors_exit_with_two(here):
    for arguments in (["wide"], ["wide", "dunes", "--steps", "many"], ["wide", "dunes", "--unknown"], ["broad"]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "Traceback" not in result.output
    assert list(here.iterdir()) == []


def test_the_output_is_checked_before_the_model_is_loaded(here, monkeypatch):
    monkeypatch.setattr(fs.SyncPipeline, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.setattr(fs.SyncPipeline, "from_zoo", lambda *_, **__: pytest.fail("loaded"))
    assert_one_sentence(run("wide", "dunes", "-o", "missing/a.png"), here, "no folder")
    assert_one_sentence(run("wide", "dunes", "--method", "sync"), here, "method")


def test_doctor_reports_and_tests_itself():
    result = run("doctor")
    assert result.exit_code == 0, result.output
    report = {line[:16].strip(): line[17:] for line in result.stdout.splitlines()}
    assert report["torch"] == torch.__version__
    assert report["fastsync"].startswith(fs.__version__)
    for op in dispatch.OPS:
        assert report[op].startswith("eager cpu 0e+00; triton ")
        native = dispatch.unavailable(op, "native", "cpu", torch.float32) == ""
        assert ("native cpu " in report[op]) == native and "BROKEN" not in report[op]
    assert dispatch.unavailable("overlap_loss", "native", "cpu", torch.float32) == ""
    assert "no native" in report
    assert "float32" in report["device cpu"]
    assert report["self-test cpu"].startswith("passed")


def test_doctor_fails_where_the_self_test_does(monkeypatch):
    def broken(*_, **__):
        raise ArithmeticError("one and one is three")

    monkeypatch.setattr("fastsync.doctor.sample", broken)
    result = run("doctor")
    assert result.exit_code == 1
    assert "FAILED: ArithmeticError: one and one is three" in result.stdout


def test_zoo_lists_priors_with_their_words():
    result = run("zoo")
    assert result.exit_code == 0, result.output
    assert "scenes: windows of 128x128 pixels" in result.stdout
    assert "mountains" in result.stdout


def test_the_command_as_a_process(tiny, tmp_path):
    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-c", "from fastsync.cli import app; app()", "wide", "dunes", "--model", tiny, *arguments],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip

    good = command("--steps", "1", "--seed", "0", "-o", "a.jpg")
    assert good.returncode == 0, good.stderr
    assert "100%" in good.stderr  # the progress bar
    bad = command("--method", "sync", "-o", "b.png")
    assert bad.returncode == 1
    assert bad.stdout == ""
    assert "Traceback" not in bad.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["a.jpg"]


# ---- the other tasks ----------------------------------------------------------------------------------------------


def test_panorama_writes_what_viewers_open_as_one(tiny, here):
    result = run("panorama", "dunes", "--model", tiny, "--method", "synctweedies", *TINY_STEPS, "-o", "p.jpg")
    assert result.exit_code == 0, result.output
    with Image.open("p.jpg") as picture:
        assert b'ProjectionType="equirectangular"' in picture.info["xmp"]
        assert picture.width > 3 * picture.height
    result = run("panorama", "dunes", "--model", tiny, "--poles", "--width", 64, "--method", "stochsync", *TINY_STEPS)
    assert result.exit_code == 0, result.output
    metadata = read_metadata("out.png")
    assert (metadata["task"], metadata["width"], metadata["seed"]) == ("panorama", 64, 3)
    with Image.open("out.png") as picture:
        assert picture.size == (64, 32) and "equirectangular" in picture.text["XML:com.adobe.xmp"]


def test_illusion_writes_picture_view_and_animation(tiny_pixels, here):
    result = run("illusion", "a cat", "a dog", "--view", "flip", "--model", tiny_pixels, *TINY_STEPS, "-o", "i.png")
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in here.iterdir()) == ["i.gif", "i.png", "i_flip.png"]
    with Image.open("i.png") as picture, Image.open("i_flip.png") as view, Image.open("i.gif") as animation:
        assert view.tobytes() == picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes()
        assert animation.n_frames > 10
    assert read_metadata("i.png")["views"] == ["identity", "flip"]


@pytest.mark.parametrize("command", ["wide", "panorama", "illusion", "compose"])
def test_windows_controlnets_and_control_images(tiny, tiny_control, here, command):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save("square.png")
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 64), np.uint8)).save("band.png")
    Image.new("L", (20, 20), 255).save("mask.png")
    arguments = {
        "wide": ["dunes", "--height", 20, "--width", 40, "--overlap", 4, "--control-image", "band.png"],
        "panorama": ["dunes", "--control-image", "band.png"],
        "illusion": ["a cat", "a dog", "--control-image", "square.png"],
        "compose": ["sky", "--mask", "mask.png", "--prompt", "a cat", "--control-image", "square.png"],
    }[command]
    common = ["--window", 20, 20, "--method", "independent", *TINY_STEPS]
    plain = ["--model", tiny, "--controlnet", tiny_control / "controlnet"]
    for name, model in (("a.png", ["--model", tiny_control]), ("b.png", plain)):
        result = run(command, *arguments, *common, *model, "-o", name)
        assert result.exit_code == 0, result.output
    metadata = read_metadata("a.png")
    assert metadata["window"] == [20, 20] and metadata["prior"] == "adapter"
    assert metadata["control_image"] == arguments[-1]
    with Image.open("a.png") as one, Image.open("b.png") as other:
        assert one.tobytes() == other.tobytes()


def test_control_images_that_make_no_sense_are_one_sentence(tiny, tiny_control, here):
    model = ["--model", tiny_control, *TINY_STEPS]
    assert_one_sentence(run("wide", "dunes", *model), here, "is shown a picture of each view", "control_image")
    result = run("wide", "dunes", *model, "--control-image", "no.png")
    assert_one_sentence(result, here, "--control-image: there is no file no.png")
    result = run("wide", "dunes", "--control-image", "no.png", "--model", "nobody/nothing")
    assert_one_sentence(result, here, "--control-image: there is no file no.png")  # before the model is loaded
    assert_one_sentence(run("wide", "dunes", "--model", tiny, "--window", 18, 16, *TINY_STEPS), here, "multiple of 4")
    result = run("wide", "dunes", "--model", "scenes", "--controlnet", tiny_control / "controlnet", *TINY_STEPS)
    assert_one_sentence(result, here, "--model scenes of the zoo takes none")


def test_doctor_says_what_is_known_of_a_model(tiny, tiny_control, here, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = run("doctor", "--model", tiny_control, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[:3] == [
        "ControlNetPrior of StableDiffusionControlNetPipeline",
        "  asked by    adapter",
        "  window      16 x 16 pixels, views [4, 8, 8]",
    ]
    result = run("doctor", "--model", tiny, "--controlnet", tiny_control / "controlnet", "--dtype", "bfloat16")
    assert "network     bfloat16" in result.stdout and "a picture of each view" in result.stdout
    assert_one_sentence(run("doctor", "--model", "nobody/nothing"), here, "nobody/nothing")
    assert_one_sentence(run("doctor", "--solver", "ddim"), here, "give --model too")


def test_two_prompts_turn_by_themselves(tiny_pixels, here):
    result = run("illusion", "6", "9", "--model", tiny_pixels, "--method", "syncsde", *TINY_STEPS)
    assert result.exit_code == 0, result.output
    assert read_metadata("out.png")["views"] == ["identity", "rotate_180"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["6", "9", "8", "--view", "flip"], "3 prompts need 2 --view, got 1"),
        (["6", "9", "--view", "upside"], "view must be one of"),
        (["6", "9", "8", "--view", "flip", "--view", "flip"], "a view was given twice"),
        (["6", "9", "-o", "a.gif"], "a picture needs one of"),
    ],
)
def test_illusions_that_make_no_sense_are_one_sentence(here, arguments, words):
    assert_one_sentence(run("illusion", *arguments), here, words)


def test_compose_reads_masks_from_files(tiny, here):
    for name, box in (("left", (0, 0, 16, 32)), ("top", (0, 0, 32, 10))):
        mask = Image.new("L", (32, 32))
        mask.paste(255, box)
        mask.save(f"{name}.png")
    regions = ["--mask", "left.png", "--prompt", "a cat", "--mask", "top.png", "--prompt", "a dog"]
    result = run("compose", "a sky", *regions, "--model", tiny, "--method", "syncsde", *TINY_STEPS, "-o", "c.webp")
    assert result.exit_code == 0, result.output
    result = run("compose", "a sky", *regions, "--model", tiny, "--method", "multidiffusion", *TINY_STEPS)
    assert result.exit_code == 0, result.output
    metadata = read_metadata("out.png")
    assert metadata["prompts"] == ["a cat", "a dog"] and metadata["masks"] == ["left.png", "top.png"]
    assert metadata["background"] == "a sky"


def test_compositions_that_make_no_sense_are_one_sentence(tiny, here):
    model = ["--model", tiny]
    assert_one_sentence(run("compose", "sky", "--mask", "no.png", "--prompt", "cat", *model), here, "there is no file")
    both = ["--mask", "a.png", "--mask", "b.png", "--prompt", "a cat"]
    assert_one_sentence(run("compose", "sky", *both, *model), here, "2 masks and 1 prompts")


@pytest.mark.parametrize("name", ["balanced", "fast"])
def test_a_preset_by_name_is_recorded(tiny, here, name):
    result = run("wide", "dunes", "--model", tiny, "--preset", name, "--width", 40, *TINY_STEPS, "-o", "a.png")
    assert result.exit_code == 0, result.output
    metadata = read_metadata("a.png")
    assert metadata["preset"] == name
    wanted = {"iterations": 5, **PRESETS[name]}
    recorded = {key: metadata["method_settings"][key] for key in wanted}
    assert recorded == {key: list(value) if isinstance(value, tuple) else value for key, value in wanted.items()}


def test_all_four_commands_take_presets_and_refuse_in_a_sentence(tiny, here):
    for command in ("wide", "panorama", "illusion", "compose"):
        assert "--preset" in CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    assert_one_sentence(run("wide", "dunes", "--preset", "quick"), here, "preset must be one of", "'quick'")
    result = run("wide", "dunes", "--preset", "fast", "--method", "independent")
    assert_one_sentence(result, here, "preset='fast' is one of method='syncvc'", "'independent'")


@pytest.mark.parametrize("pixels", [False, True])
def test_low_memory_is_the_same_picture(tiny, tiny_pixels, here, monkeypatch, pixels):
    model = tiny_pixels if pixels else tiny
    switched = []
    load = fs.SyncPipeline.from_pretrained

    def remember(*arguments, **settings):
        switched.append(load(*arguments, **settings).pipe)
        return fs.SyncPipeline(switched[-1])

    monkeypatch.setattr(fs.SyncPipeline, "from_pretrained", remember)
    for name, flags in (("a.png", []), ("b.png", ["--low-memory"])):
        result = run("wide", "dunes", "--width", 40, "--model", model, *flags, *TINY_STEPS, "-o", name)
        assert result.exit_code == 0, result.output
    before, after = switched
    assert after.unet.is_gradient_checkpointing and not before.unet.is_gradient_checkpointing
    assert pixels or (after.vae.use_tiling and not before.vae.use_tiling)
    a, b = (np.asarray(Image.open(name), dtype=int) for name in ("a.png", "b.png"))
    assert np.abs(a - b).max() <= 1
    assert read_metadata("b.png")["device"] == "cpu"


def test_low_memory_offloads_whole_models_on_a_gpu(monkeypatch):
    pipe = make_pipeline()
    asked = []
    monkeypatch.setattr(type(pipe), "device", torch.device("cuda", 1))
    monkeypatch.setattr(pipe, "enable_model_cpu_offload", lambda device: asked.append(device))
    save_memory(pipe)
    assert asked == [torch.device("cuda", 1)]
