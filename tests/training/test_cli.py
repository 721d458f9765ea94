# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The `sanet` command: output, errors and exit codes."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Timer

import datasets
import matplotlib.pyplot as plt
import numpy as np
import pandas
import pytest
import soundfile
import torch
from transformers import AutoModelForAudioClassification, BertConfig

from sanet_hf import SANetConfig, SANetForAudioClassification
from sanet_hf.cli import training_commands
from sanet_hf.cli.main import COMMANDS, main, make_parser
from sanet_hf.inference.app import MAX_MEGABYTES, MAX_SECONDS
from sanet_hf.utils.files import OPTIONS_FILE


def run(*argv: str, cwd=None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "sanet_hf", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--help"], ["sanet train --data_dir", "train", "predict", "convert", "--traceback"]),
        (["--version"], ["sanet-hf "]),
        (["prepare", "--help"], ["--max_seconds", "--no_denoise", "--group_pattern", "interruption"]),
        (["check", "--help"], ["FOLDER", "--machine", "--group_pattern", "--num_workers"]),
        (["embed", "--help"], ["--output", "--normalize", ".npz"]),
        (["train", "--help"], ["--data_dir", "--learning_rate", "--config_overrides", "CONFIG"]),
        (["train", "--help_all"], ["--adam_epsilon", "--ddp_backend"]),
        (["evaluate", "--help"], ["--data_dir", "--split", "--output", "--group_pattern"]),
        (["compare", "--help"], ["--data_dir", "--num_rounds", "McNemar", "95 %"]),
        (["predict", "--help"], ["--window", "--segments", "--resume", "@list.txt", "exit code 1"]),
        (["explain", "--help"], ["--label", "--start", ".json", "occlusion"]),
        (["app", "--help"], ["--examples", "--host", "--max_seconds", "browser"]),
        (["export", "--help"], ["--format", "--quantize", "--calibration_dir", "1e-4"]),
        (["augment", "--help"], ["--config", "examples.png"]),
        (["convert", "--help"], ["--labels", "SqueezeAttendNet"]),
    ],
    ids=" ".join,
)
def test_help(argv, expected, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(argv)
    assert exit_info.value.code == 0
    output = capsys.readouterr().out
    assert all(text in output for text in expected)


def test_short_help_omits_rare_options(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    output = capsys.readouterr().out
    assert "--ddp_backend" not in output and "--data-dir" not in output


def test_predict_prints_score_label_and_file(trained, tones, capsys):
    clips = sorted((tones / "test").rglob("*.wav"))
    assert main(["predict", str(trained), *map(str, clips), "--batch_size", "3"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["score", "label", "file"]
    assert [row.split()[2] for row in rows] == [str(clip) for clip in clips]
    assert [row.split()[1] for row in rows] == [clip.parent.name for clip in clips]
    assert all(0.5 < float(row.split()[0]) <= 1 for row in rows)


def test_predict_skips_unreadable_files(trained, tones, tmp_path, capsys):
    clip = tones / "test/high/high_test_0.wav"
    text = tmp_path / "text.wav"
    text.write_text("this is no audio")
    damaged = tmp_path / "damaged.wav"
    damaged.write_bytes(clip.read_bytes()[:20])
    argv = ["predict", str(trained), "missing.wav", str(text), str(clip), str(damaged)]
    assert main(argv) == 1
    output, errors = capsys.readouterr()
    assert [line.split()[1:] for line in output.splitlines()[1:]] == [["high", str(clip)]]
    assert "missing.wav: file not found." in errors
    assert f"{text}: " in errors and f"{damaged}: " in errors
    assert "3 of 4 files could not be classified." in errors
    assert "Traceback" not in errors
    assert main([*argv, "--strict"]) == 2
    output, errors = capsys.readouterr()
    assert "missing.wav: file not found. (--strict stops here)" in errors and str(clip) not in output


def test_predict_long_file(trained, make_tone, tmp_path, capsys):
    for frequency in (300, 1500):
        make_tone(tmp_path / f"{frequency}.wav", frequency, seconds=1.0)
    low, high = (soundfile.read(tmp_path / f"{frequency}.wav")[0] for frequency in (300, 1500))
    soundfile.write(tmp_path / "long.wav", np.concatenate([low, low, high]), 16000)
    options = ["--output", str(tmp_path / "rows.csv"), "--plot", str(tmp_path / "plot.png"), "--top_k", "5"]
    assert main(["predict", str(trained), str(tmp_path / "long.wav"), *options]) == 0
    assert "Classified 1 of 1 files" in capsys.readouterr().out
    rows = pandas.read_csv(tmp_path / "rows.csv")
    assert rows["label"].tolist()[:3] == ["low", "low", "high"] and len(rows) == 4
    assert rows["start"].tolist()[:3] == [0, 1, 2] and rows["duration"].tolist()[3] == 3
    assert rows["score_2"].notna().all() and "score_4" not in rows
    assert plt.imread(tmp_path / "plot.png").std() > 0
    assert main(["predict", str(trained), str(tmp_path / "long.wav"), "--segments"]) == 0
    assert "0.00 to 2.00 s" in capsys.readouterr().out
    (tmp_path / "two.txt").write_text(f"{tmp_path / 'long.wav'}\n{tmp_path / '300.wav'}\n")
    for argv, message in (
        ([f"@{tmp_path / 'two.txt'}", "--plot", "a.png"], "--plot needs exactly one audio file"),
        ([str(tmp_path / "long.wav"), "--plot", "a.txt"], "a picture must end in .png"),
        ([str(tmp_path / "long.wav"), "--window", "7"], "at most 1 s, the maximum of this model"),
        ([str(tmp_path / "long.wav"), *options[:2]], "Use --resume to add missing rows"),
    ):
        assert main(["predict", str(trained), *argv]) == 2
        assert message in capsys.readouterr().err


def test_predict_resume_adds_missing_rows(trained, tones, tmp_path, capsys):
    clips = [str(path) for path in sorted((tones / "test").rglob("*.wav"))[:3]]
    moved = tmp_path / "moved.wav"
    output = tmp_path / "rows.jsonl"
    argv = ["predict", str(trained), clips[0], str(moved), clips[1], "--output", str(output)]
    assert main(argv) == 1
    assert "Classified 2 of 3 files" in capsys.readouterr().out
    shutil.copy(clips[2], moved)
    assert main([*argv, "--resume"]) == 0
    assert "Classified 1 of 1 files" in capsys.readouterr().out
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["path"] for row in rows] == [clips[0], str(moved), clips[1]]
    assert all(row["label"] and row["error"] is None for row in rows)
    assert main([*argv[:3], "--output", str(output), "--overwrite"]) == 0
    assert len(output.read_text().splitlines()) == 1


def test_predict_from_a_pipe(trained, tones, tmp_path):
    """Each file is classified before the next is named. Missing files, folders and empty patterns are errors."""
    clips = [str(path) for path in sorted((tones / "test").rglob("*.wav"))[:3]]
    (tmp_path / "folder.wav").mkdir()
    command = [sys.executable, "-m", "sanet_hf", "predict", str(trained), "-", "--device", "cpu"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        guard = Timer(300, process.kill)
        guard.start()
        for place, clip in enumerate(clips):
            process.stdin.write(f"{clip}\n")
            process.stdin.flush()
            if place == 0:
                assert process.stdout.readline().split() == ["score", "label", "file"]
            assert process.stdout.readline().split()[2] == clip
        output, errors = process.communicate("missing.wav\nnothing/*.wav\n" + str(tmp_path / "folder.wav"))
        guard.cancel()
    assert process.returncode == 1 and not output
    assert "missing.wav: file not found." in errors and "nothing/*.wav: file not found." in errors
    assert "folder.wav: not a file." in errors and "3 of 6 files could not be classified." in errors


def test_predict_finds_mistakes_before_reading_a_pipe(trained, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", iter(lambda: pytest.fail("the pipe was read"), None))
    assert main(["predict", str(trained), "-", "nothing/*.wav"]) == 2
    assert "nothing/*.wav: no file matches" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_predict_silence(trained, tones, tmp_path, capsys, suffix):
    """A silent file gets a row without a class and a note; the exit code is 0. --min_level none classifies it."""
    clip = str(next((tones / "test/high").iterdir()))
    silence, half = tmp_path / "silence.wav", tmp_path / "half.wav"
    soundfile.write(silence, np.zeros(8000), 16000)
    soundfile.write(half, np.concatenate([np.zeros(16000), soundfile.read(clip)[0]]), 16000)
    output = tmp_path / f"rows{suffix}"
    argv = ["predict", str(trained), str(silence), clip, str(half), "--output", str(output), "--num_workers", "3"]

    def read() -> pandas.DataFrame:
        if suffix == ".jsonl":
            return pandas.read_json(output, lines=True)
        return pandas.read_csv(output) if suffix == ".csv" else pandas.read_parquet(output)

    assert main(argv) == 0
    printed, errors = capsys.readouterr()
    assert f"{silence}: silent, below --min_level. It gets no class." in errors
    assert "Classified 3 of 3 files" in printed
    labels = read()["label"].fillna("").tolist()
    assert labels[:3] == ["", "high", ""] and labels[-1] == "high"
    assert main([*argv, "--overwrite", "--min_level", "none"]) == 0
    assert "silent" not in capsys.readouterr().err and read()["label"].notna().all()
    assert main(["predict", str(trained), str(half), "--plot", str(tmp_path / "plot.png")]) == 0
    assert main(["predict", str(trained), str(silence), "--plot", str(tmp_path / "silence.png")]) == 0
    assert (tmp_path / "plot.png").exists() and (tmp_path / "silence.png").exists()
    assert capsys.readouterr().out.splitlines()[-2].split() == ["-", "-", str(silence)]


def test_embed_skips_silence(trained, tones, tmp_path, capsys):
    """The embedding of silence would describe amplified rounding errors."""
    clip, silence = str(next((tones / "test/high").iterdir())), tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(8000), 16000)
    argv = ["embed", str(trained), str(silence), clip, "--output", str(tmp_path / "e.npz")]
    assert main(argv) == 1
    assert f"{silence}: silent, below --min_level. It gets no embedding." in capsys.readouterr().err
    assert np.load(tmp_path / "e.npz")["path"].tolist() == [clip]
    assert main([*argv, "--min_level", "none"]) == 0
    assert np.load(tmp_path / "e.npz")["path"].tolist() == [str(silence), clip]


def test_explain_silence(trained, tmp_path, capsys):
    soundfile.write(tmp_path / "silence.wav", np.zeros(8000), 16000)
    output = ["--output", str(tmp_path / "silence.json")]
    assert main(["explain", str(trained), str(tmp_path / "silence.wav"), *output]) == 0
    assert "This part is silent (below -80 dBFS)" in capsys.readouterr().out


def test_explain(trained, tones, make_tone, tmp_path, capsys):
    clip, output = tones / "test/high/high_test_0.wav", tmp_path / "new/explained"
    assert main(["explain", str(trained), str(clip), "--output", f"{output}.png"]) == 0
    # The better of two classes has more than half. The exact score depends on the PyTorch version of the training.
    assert ": high 0." in (printed := capsys.readouterr().out) and f"explained in {output}.png" in printed
    assert Path(f"{output}.png").read_bytes().startswith(b"\x89PNG")
    make_tone(tmp_path / "long.wav", 1500, seconds=2.5)
    command = ["explain", str(trained), str(tmp_path / "long.wav"), "--output", f"{output}.json"]
    for options, label, start, end in (
        ([], "high", 0.75, 1.75),  # the middle of the file
        (["--start", "1.2", "--label", "low"], "low", 1.2, 2.2),
        (["--start", "2", "--occlusion_seconds", "0.1", "--hop_seconds", "0.1"], "high", 2, 2.5),
    ):
        assert main([*command, *options]) == 0
        result = json.loads(Path(f"{output}.json").read_text(encoding="utf-8"))
        assert (result["label"], result["start"], result["end"]) == (label, start, end)
        assert result["scores"]["high"] > 0.5 and result["pooling"]["edges"][-1] == end
    np.testing.assert_allclose(result["occlusion"]["start"], [2.0, 2.1, 2.2, 2.3, 2.4])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["missing.wav"], "missing.wav: file not found."),
        (["TEXT"], "text.wav: "),
        (
            ["CLIP", "--label", "hihg"],
            "label='hihg' is not a class of the model. Did you mean 'high'? Its classes are",
        ),
        (["CLIP", "--output", "out.mp4"], "out.mp4: an explanation must end in .png, .jpg, .svg, .pdf or .json."),
        (["CLIP", "--start", "-1"], "--start -1 must be at least 0"),
        (["CLIP", "--start", "inf"], "--start inf must be at least 0"),
        (["CLIP", "--start", "99"], "the file contains no samples after 99 s"),
        (["CLIP", "--occlusion_seconds", "0"], "occlusion_seconds=0 must be positive"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_explain_with_a_mistake(trained, tones, tmp_path, capsys, argv, message):
    (tmp_path / "text.wav").write_text("this is no audio")
    replacements = {"CLIP": str(tones / "test/high/high_test_0.wav"), "TEXT": str(tmp_path / "text.wav")}
    argv = [replacements.get(argument, argument) for argument in argv]
    assert main(["explain", str(trained), "--output", str(tmp_path / "out.png"), *argv]) == 2
    errors = capsys.readouterr().err
    assert message in errors and "Traceback" not in errors
    assert not (tmp_path / "out.png").exists()


def make_bert(folder):
    BertConfig().save_pretrained(folder)


def make_no_model(folder):
    (folder / "notes.txt").write_text("nothing here")


def make_no_weights(folder):
    SANetConfig().save_pretrained(folder)


def make_unfinished(folder):
    (folder / OPTIONS_FILE).write_text("seed: 0\n")
    SANetConfig().save_pretrained(folder / "checkpoint-5")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_unfinished, "the training in this folder has not finished. Run the same sanet train command again"),
        (shutil.rmtree, "model not found, neither as a folder nor on the Hub"),
        (make_no_model, "contains no model that transformers can load"),
        (make_bert, "a model of type 'bert' is not an audio classifier"),
        (make_no_weights, "the model cannot be loaded"),
    ],
)
def test_predict_refuses_folders_without_a_classifier(tmp_path, capsys, make, message):
    folder = tmp_path / "model"
    folder.mkdir()
    make(folder)
    assert main(["predict", str(folder), "clip.wav"]) == 2
    errors = capsys.readouterr().err
    assert message in errors and str(folder) in errors and "Traceback" not in errors


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["trian"], "invalid choice: 'trian'"),
        (["predict"], "MODEL, INPUT"),
        (["predict", "model", "clip.wav", "--batch_size", "0"], "not a positive whole number"),
    ],
)
def test_misuse_exits_with_2(argv, message, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(argv)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data_dir", "nowhere"], "nowhere: folder not found"),
        (["--learning_rat", "1"], "--learning_rat is not an option of sanet train. Did you mean --learning_rate?"),
        (["--epochs", "1"], "--epochs is not an option of sanet train. Did you mean --averaged_epochs or --num_train"),
        (["--data_dir", "DATA", "--config_overrides", "conv_dims=[8]"], "SANetConfig has no 'conv_dims'"),
        (["--data_dir", "DATA", "--config_overrides", "conv_dim=[8]"], "conv_dim=(8,) and conv_kernel="),
        (["--data_dir", "DATA", "--config_overrides", "conv_dim=wide"], "conv_dim"),
        (["--data_dir", "DATA", "--sampling_rate", "192000"], "--sampling_rate 192000 must be from 8000 to 96000 Hz"),
        (["--data_dir", "DATA", "--max_length_seconds", "0"], "--max_length_seconds 0"),
        (["--data_dir", "DATA", "--model_name_or_path", "nowhere"], "--model_name_or_path nowhere: model not found"),
        (["--data_dir", "DATA", "--model_name_or_path", "BERT"], "a model of type 'bert' is not an audio classifier"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_train_with_a_mistake(tones, tmp_path, capsys, argv, message):
    make_bert(tmp_path / "bert")
    replacements = {"DATA": str(tones), "BERT": str(tmp_path / "bert")}
    argv = [replacements.get(argument, argument) for argument in argv]
    output_dir = tmp_path / "out"
    assert main(["train", "sanet.yaml", "--output_dir", str(output_dir), *argv]) == 2
    errors = capsys.readouterr().err
    assert message in errors and "Traceback" not in errors
    assert not (output_dir / "config.json").exists()


def test_mistake_shows_a_traceback_only_on_request(capsys, monkeypatch):
    command = ["train", "--data_dir", "nowhere", "--output_dir", "out"]
    assert main(command) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main([*command, "--traceback"]) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("SANET_TRACEBACK", "1")
    assert main(command) == 2
    assert "Traceback" in capsys.readouterr().err


def test_every_command_has_help(capsys):
    choices = re.findall(r"^    (\w+) ", make_parser().format_help().partition("COMMAND")[2], re.MULTILINE)
    assert set(choices) == {*COMMANDS, "train"}
    for command in choices:
        with pytest.raises(SystemExit) as exit_info:
            main([command, "--help"])
        assert exit_info.value.code == 0
        assert f"usage: sanet {command} " in capsys.readouterr().out


def test_check_needs_a_folder_or_machine(capsys):
    assert main(["check"]) == 2
    assert "Give FOLDER or --machine" in capsys.readouterr().err


def test_check_machine(monkeypatch, capsys):
    small = SANetConfig(conv_dim=(16, 32, 32, 32, 64), se_reduction=4)
    monkeypatch.setattr("sanet_hf.optimization.processor_report.SANetConfig", lambda: small)
    assert main(["check", "--machine"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("processor ") and any(line.startswith("linear layer ") for line in lines)


OPTIONAL_PACKAGES = [
    *("accelerate", "audiomentations", "datasets", "evaluate", "gradio", "jinja2", "librosa", "matplotlib"),
    *("noisereduce", "onnx", "onnxruntime", "onnxscript", "pyarrow", "pyroomacoustics", "scipy", "silero_vad"),
    *("sklearn", "soxr", "torchcodec"),
]


def test_commands_with_the_core_packages_only(trained, tones, original_checkpoint, tmp_path):
    """Commands that need more packages name the missing extra."""
    clip = str(tones / "test/high/high_test_0.wav")
    works = [
        ["predict", str(trained), clip],
        ["predict", str(trained), clip, "--output", "rows.csv"],
        ["embed", str(trained), clip, "--output", "embedding.npz"],
        ["explain", str(trained), clip, "--output", "explained.json"],
        ["convert", str(original_checkpoint), "converted"],
        *([command, "--help"] for command in (*COMMANDS, "train")),
    ]
    refused = {
        "train": ["train", "sanet.yaml", "--data_dir", str(tones), "--output_dir", "out"],
        "evaluate": ["evaluate", str(trained)],
        "compare": ["compare", str(trained), "--output", "out"],
        "augment": ["augment", clip, "out"],
        "prepare": ["prepare", str(tones), "out"],
        "check": ["check", str(tones)],
        "export": ["export", str(trained), "out"],
        "app": ["app", str(trained)],
        "plot": ["explain", str(trained), clip, "--output", "explained.png"],
        "plot of files": ["embed", str(trained), clip, "--output", "e.npz", "--plot", "map.png"],
        "parquet": ["predict", str(trained), clip, "--output", "rows.parquet"],
    }
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import json, sys
sys.modules.update(dict.fromkeys({OPTIONAL_PACKAGES}))
from sanet_hf.cli.main import main

def run(argv):
    try:
        return main(argv)
    except SystemExit as error:
        return error.code

codes = [run(argv) for argv in {works}]
print("=====", file=sys.stderr)
codes += [run(argv) for argv in {list(refused.values())}]
print(json.dumps(codes))
"""
    )
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert result.returncode == 0, result.stderr
    codes = json.loads(result.stdout.splitlines()[-1])
    assert codes == [0] * len(works) + [2] * len(refused), result.stderr
    lines = [line for line in result.stderr.partition("=====")[2].splitlines() if line.startswith("sanet: error: ")]
    extras = {name: name for name in ("prepare", "app", "plot")}
    extras |= {"check": "prepare", "export": "onnx", "plot of files": "plot"}
    assert len(lines) == len(refused)
    for name, line in zip(refused, lines):
        assert line.endswith(f'not installed. Run: pip install "sanet-hf[{extras.get(name, "train")}]"'), name
    assert {row["label"] for row in pandas.read_csv(tmp_path / "rows.csv").to_dict("records")} == {"high"}
    assert not (tmp_path / "out").exists() and not (tmp_path / "rows.parquet").exists()


def test_evaluate(trained, tones, tmp_path, capsys):
    """It uses the data of the run by default, or --data_dir. --output writes a report."""
    datasets.enable_progress_bars()
    assert main(["evaluate", str(trained)]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[2].split()[:4] == ["test", "1.000", "0.676–1.000", "1.000"]
    assert "Casting" not in printed.err
    output_dir = tmp_path / "evaluation"
    shutil.copytree(tones / "train", tmp_path / "others")
    for path in (tmp_path / "others").rglob("*.wav"):
        samples, rate = soundfile.read(path)
        soundfile.write(path, -samples, rate)
    command = ["evaluate", "--data_dir", str(tmp_path / "others"), str(trained)]
    assert main([*command, "--output", str(output_dir)]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[2].split()[0] == "all" and "Evaluated on 32 recordings." in text
    assert len((output_dir / "predictions/all.csv").read_text().splitlines()) == 33
    assert json.loads((output_dir / "metrics.json").read_text())["accuracy"] == 1
    assert (output_dir / "report.html").stat().st_size > 10000
    assert main([*command, "--output", str(output_dir)]) == 2
    assert "is not empty. Choose a new folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data_dir", "nowhere"], "nowhere: folder not found"),
        (["--data_dir", "TONES", "--manifest", "list.csv"], "--data_dir and --manifest both name recordings"),
        (["--data_dir", "OTHER", "--split", "all"], "the model does not have: bass, treble"),
        (["--data_dir", "OTHER", "--split", "validation"], "no validation split"),
        (["--split", "all"], "already have splits: test, train, validation"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_evaluate_with_a_mistake(trained, tones, make_tone, tmp_path, capsys, argv, message):
    for label in ("bass", "treble"):
        make_tone(tmp_path / "other" / label / "0.wav", 440)
    replacements = {"TONES": str(tones), "OTHER": str(tmp_path / "other")}
    assert main(["evaluate", str(trained), *(replacements.get(argument, argument) for argument in argv)]) == 2
    errors = capsys.readouterr().err
    assert message in errors and "Traceback" not in errors


@pytest.fixture
def original_checkpoint(tmp_path):
    """Return a small checkpoint with the weight names of the original. Conversion infers all sizes from it."""
    torch.manual_seed(0)
    shapes = {}
    sizes = [1, 8, 8, 16, 16, 32]
    for stage, (inputs, outputs) in enumerate(itertools.pairwise(sizes), start=1):
        shapes |= {
            f"stage{stage}.conv1.weight": (outputs, inputs, 4),
            f"stage{stage}.conv2.weight": (outputs, outputs, 4),
        }
        shapes |= {f"stage{stage}.down.0.weight": (outputs, inputs, 1)}
        shapes |= {
            f"stage{stage}.se.fc.0.weight": (outputs // 8, outputs, 1),
            f"stage{stage}.se.fc.0.bias": (outputs // 8,),
        }
        shapes |= {
            f"stage{stage}.se.fc.2.weight": (outputs, outputs // 8, 1),
            f"stage{stage}.se.fc.2.bias": (outputs,),
        }
        shapes |= (
            norm(f"stage{stage}.bn1", outputs)
            | norm(f"stage{stage}.bn2", outputs)
            | norm(f"stage{stage}.down.1", outputs)
        )
    for block, (channels, width) in enumerate(((16, 8), (32, 16)), start=1):
        name = f"dab{block}"
        shapes |= {f"{name}.pos_embed": (1, 50, width), f"{name}.mha.in_proj_weight": (3 * width, width)}
        shapes |= {f"{name}.mha.in_proj_bias": (3 * width,)}
        for part, shape in {
            "down_time": (channels, channels, 4),
            "down_ch": (width, channels, 1),
            "mha.out_proj": (width, width),
            "ln_attn": (width,),
            "up_time": (width, width, 4),
            "up_ch": (channels, width, 1),
        }.items():
            shapes |= {f"{name}.{part}.weight": shape, f"{name}.{part}.bias": (shape[0],)}
        shapes |= norm(f"{name}.bn_down", channels) | norm(f"{name}.bn_up", width)
    for part, shape in {
        "pool.score.0": (8, 32, 1),
        "pool.score.2": (1, 8, 1),
        "classifier.0": (16, 64),
        "classifier.3": (8, 16),
        "classifier.6": (3, 8),
    }.items():
        shapes |= {f"{part}.weight": shape, f"{part}.bias": (shape[0],)}
    shapes |= norm("classifier.1", 16) | norm("classifier.4", 8)
    state_dict = {
        name: torch.tensor(0) if name.endswith("num_batches_tracked") else torch.rand(shape)
        for name, shape in shapes.items()
    }
    path = tmp_path / "original.pt"
    torch.save(state_dict, path)
    return path


def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (channels,) for part in names} | {f"{name}.num_batches_tracked": ()}


def test_convert(original_checkpoint, tones, tmp_path, capsys):
    labels = tmp_path / "labels.txt"
    labels.write_text("robin\nblackbird\nwren\n")
    output_dir = tmp_path / "converted"
    assert main(["convert", str(original_checkpoint), str(output_dir), "--labels", str(labels)]) == 0
    model = AutoModelForAudioClassification.from_pretrained(output_dir)
    assert isinstance(model, SANetForAudioClassification)
    assert model.config.id2label == {0: "robin", 1: "blackbird", 2: "wren"}
    feature_extractor = json.loads((output_dir / "preprocessor_config.json").read_text())
    assert feature_extractor["max_length"] == model.config.max_input_samples
    clip = str(tones / "test/high/high_test_0.wav")
    capsys.readouterr()
    assert main(["predict", str(output_dir), clip]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[1] in {"robin", "blackbird", "wren"}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("labels", "id2label names 2 classes, but the last layer of the checkpoint has 3"),
        ("no_labels_file", "labels.txt"),
        ("missing", "file not found"),
        ("another", "not a checkpoint of the original SqueezeAttendNet"),
        ("not_empty", "is not empty. Choose a new folder"),
    ],
)
def test_convert_with_a_mistake(original_checkpoint, tmp_path, capsys, fault, message):
    output_dir, labels = tmp_path / "converted", tmp_path / "labels.txt"
    argv = ["convert", str(original_checkpoint), str(output_dir)]
    if fault == "labels":
        labels.write_text("robin\nblackbird\n")
    if fault in ("labels", "no_labels_file"):
        argv += ["--labels", str(labels)]
    elif fault == "missing":
        original_checkpoint.unlink()
    elif fault == "another":
        torch.save(torch.nn.Linear(2, 2).state_dict(), original_checkpoint)
    elif fault == "not_empty":
        output_dir.mkdir()
        (output_dir / "mine.txt").write_text("keep me")
    assert main(argv) == 2
    errors = capsys.readouterr().err
    assert message in errors and "Traceback" not in errors
    assert not (output_dir / "config.json").exists()


def test_module_runs_as_the_command(trained, tones, tmp_path):
    clip = tones / "test/low/low_test_0.wav"
    result = run("predict", trained, clip, tmp_path / "missing.wav")
    assert result.returncode == 1
    assert "low" in result.stdout.splitlines()[1]
    assert "file not found" in result.stderr and "Traceback" not in result.stderr


def test_augment_writes_examples(tones, tmp_path, capsys):
    source = next((tones / "test/high").iterdir())
    command = ["augment", str(source), str(tmp_path / "examples"), "-n", "3", "--config"]
    (tmp_path / "gain.yaml").write_text(
        "augmentations:\n- PolarityInversion: {p: 1}\n"
        "augmentations_after_normalization:\n- Gain: {min_gain_db: -6, max_gain_db: -6, p: 1}\n"
    )
    assert main([*command, str(tmp_path / "gain.yaml")]) == 0
    assert "3 examples are in" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "examples").iterdir())
    assert names == ["1.wav", "2.wav", "3.wav", "examples.png", "original.wav"]
    original, _ = soundfile.read(tmp_path / "examples/original.wav")
    example, rate = soundfile.read(tmp_path / "examples/2.wav")
    assert rate == 16000 and np.sqrt(np.mean(original**2)) == pytest.approx(0.1, rel=1e-3)
    np.testing.assert_allclose(example, -original * 10 ** (-6 / 20), atol=1e-5)
    assert main([*command, str(tmp_path / "gain.yaml")]) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [("seed: 3", "has neither augmentations nor"), ("- a", "has neither"), ("a: [", "cannot be read as YAML")],
)
def test_augment_needs_an_augmentation(tones, tmp_path, capsys, text, message):
    (tmp_path / "options.yaml").write_text(text)
    source = next((tones / "test/high").iterdir())
    command = ["augment", str(source), str(tmp_path / "examples"), "--config", str(tmp_path / "options.yaml")]
    assert main(command) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "examples").exists()


def test_app(trained, tones, monkeypatch, capsys):
    gradio = pytest.importorskip("gradio", reason="needs gradio: pip install sanet-hf[app]")
    apps = []
    # As if Ctrl+C was pressed at once.
    monkeypatch.setattr(gradio.Blocks, "block_thread", lambda app: apps.append(app) or app.close())
    assert main(["app", str(trained), "--examples", str(tones / "test"), "--max_megabytes", "2"]) == 0
    assert "Open http://127.0.0.1:" in capsys.readouterr().out
    (app,) = apps
    assert app.title == trained.name and app.max_file_size == 2 * 2**20 and not app.share and not app.run_history
    defaults = make_parser().parse_args(["app", "model"])
    assert (defaults.max_seconds, defaults.max_megabytes) == (MAX_SECONDS, MAX_MEGABYTES)
    assert main(["app", str(trained), "--examples", "nowhere"]) == 2
    assert "--examples nowhere: folder not found" in capsys.readouterr().err
    assert main(["app", str(trained), "--max_seconds", "-1"]) == 2
    assert "max_seconds=-1 must be positive" in capsys.readouterr().err


BUGS = {
    "train": "sanet_hf.training.trainer.AudioClassificationTrainer.compute_loss",
    "evaluate": "sanet_hf.training.evaluation.evaluate.evaluate_windows",
    "compare": "sanet_hf.training.evaluation.evaluate.evaluate_windows",
    "prepare": "sanet_hf.training.preparation.prepare.make_manifest",
    "predict": "sanet_hf.inference.prediction.classify_waveforms",
    "embed": "sanet_hf.inference.prediction.classify_waveforms",
    "explain": "sanet_hf.inference.explanation.class_scores",
    "export": "transformers.utils.logging.disable_progress_bar",
    "app": "sanet_hf.inference.app.make_app",
    "augment": "sanet_hf.training.reports.augmentation_examples._plot",
    "convert": "sanet_hf.convert_original_checkpoint",
}


@pytest.mark.parametrize(
    ("command", "error"),
    [
        *zip(BUGS, itertools.cycle([ValueError, TypeError, KeyError])),
        *(("convert", kind) for kind in (KeyError, OSError)),
    ],
)
def test_bug_shows_its_traceback(trained, tones, tiny_options, tmp_path, monkeypatch, capsys, command, error):
    def fail(*arguments, **options):
        raise error("a bug")

    clip, model, output = str(tones / "test/high/high_test_0.wav"), str(trained), str(tmp_path / "output")
    argv = {
        "train": ["sanet.yaml", "--data_dir", str(tones), "--output_dir", output, *tiny_options],
        "evaluate": [model],
        "compare": [model, "--output", output],
        "prepare": [str(tones), output, "--num_workers", "1"],
        "predict": [model, clip],
        "embed": [model, clip, "--output", f"{output}.npz"],
        "explain": [model, clip, "--output", f"{output}.json"],
        "export": [model, output],
        "app": [model],
        "augment": [clip, output],
        "convert": [clip, output],
    }[command]
    monkeypatch.setattr(BUGS[command], fail)
    assert main([command, *argv]) == 1
    errors = capsys.readouterr().err
    assert "Traceback" in errors and errors.splitlines()[-1] == f"sanet: unexpected error: {error('a bug')}"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["predict", "MODEL", "CLIP", "--device", "fast"], "device fast: "),
        (["predict", "MODEL", "CLIP", "--device", "meta"], "device meta: "),
        (["predict", "MODEL", "CLIP", "--window", "nan"], "The window of nan s must be above 0"),
        (["predict", "MODEL", "CLIP", "--hop", "0"], "The hop of 0 s must be above 0"),
        (["predict", "MODEL", "CLIP", "--min_level", "3"], "min_level=3 must be at most 0"),
        (["predict", "MODEL", "CLIP", "--min_score", "2"], "min_score=2 must be between 0 and 1"),
        (["predict", "MODEL", "CLIP", "--output", "rows.txt"], "rows.txt: the output must end in .csv"),
        (["predict", "MODEL", "CLIP", "--output", "LARGE.csv", "--resume"], "Cannot resume LARGE.csv"),
        (
            ["predict", "MODEL", "CLIP", "--output", "NUMBERS.jsonl", "--resume"],
            "Cannot resume NUMBERS.jsonl",
        ),
        (["predict", "MODEL", "CLIP", "--output", "OTHERS.jsonl", "--resume"], "OTHERS.jsonl has the columns other"),
        (["predict", "MODEL", "nothing/*.wav"], "nothing/*.wav: no file matches"),
        (["predict", "MODEL", "@nothing"], "@nothing: the list cannot be read"),
        (["predict", "MODEL", "EMPTY"], "contains no audio files"),
        (["embed", "MODEL", "CLIP", "--output", "rows.csv"], "the output must end in .parquet or .npz"),
        (["embed", "MODEL", "CLIP", "--output", "one.npz", "--plot", "one.png"], "A map needs at least three files"),
        (["explain", "MODEL", "CLIP", "--output", "e.json", "--start", "1e300"], "contains no samples after"),
        (["app", "MODEL", "--host", "192.0.2.1"], "The app cannot be served on 192.0.2.1, port any: "),
        (["app", "MODEL", "--port", "70000"], "The app cannot be served on 127.0.0.1, port 70000: "),
        (["export", "MODEL", "new", "--calibration_dir", "EMPTY"], "--calibration_dir needs --quantize int8"),
        (["export", "nowhere", "new"], "nowhere: model not found, neither as a folder"),
        (["augment", "CLIP", "new", "--config", "DATE.yaml"], "DATE.yaml cannot be read as YAML"),
        (["augment", "CLIP", "new", "--config", "LIST.yaml"], "augmentations: Gain: [1] is not of the form"),
        (["augment", "CLIP", "new", "--config", "GAIN.yaml"], "augmentations: Gain: "),
        (["convert", "CLIP", "new"], "cannot be read as a PyTorch checkpoint"),
        (["convert", "NAMES.pt", "new"], "is not a checkpoint of the original"),
        (["convert", "NAMES.pt", "new", "--labels", "LATIN.txt"], "LATIN.txt is not a text file in UTF-8"),
        (["evaluate", "DAMAGED"], "train_options.yaml is damaged: "),
        (["evaluate", "BARE", "--data_dir", "DATA", "--max_length_seconds", "9"], "supports clips of up to 1 s"),
        (["evaluate", "BARE", "--data_dir", "DATA", "--max_length_seconds", "nan"], "--max_length_seconds nan: "),
        (
            ["compare", "MODEL", "--output", "new", "--group_pattern", "(", "--data_dir", "DATA"],
            "not a valid regular expression",
        ),
        (["prepare", "DATA", "new", "--max_seconds", "nan"], "--max_seconds must be"),
        (["prepare", "EMPTY", "new"], "contains no class folders"),
        (["train", "--seed", "-1"], "--seed -1 must be at least 0"),
        (["train", "--per_device_train_batch_size", "0"], "--per_device_train_batch_size 0 must be at least 1"),
        (["train", "--mixup_alpha", "nan"], "--mixup_alpha nan must be at least 0"),
        (["train", "--max_length_seconds", "nan"], "--max_length_seconds nan must be positive"),
        (["train", "--max_length_seconds", "inf"], "--max_length_seconds inf must be positive"),
        (["train", "--metric_for_best_model", "f2"], "--metric_for_best_model f2 is not a known metric"),
        (["train", "--config_overrides", "num_labels=2020-99-99"], "is not of the form"),
        (
            ["train", "--model_type", "wav2vec2", "--config_overrides", "hidden_act=loud"],
            "--config_overrides: KeyError",
        ),
        (["train", "--config_overrides", "conv_dim=[0]"], "--config_overrides: "),
        (["train", "--report_to", "nobody"], "The training options are not valid: nobody"),
        (["train", "--lr_scheduler_kwargs", "{"], "Invalid training options: "),
        (["train", "--resume_from_checkpoint", "EMPTY"], "the folder is not a checkpoint"),
        (["train", "--augmentations", '[{"Gain": 1}]'], "augmentations: Gain: 1 is not of the form"),
        (["train", "--model_name_or_path", "EMPTY"], "the model cannot be loaded"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistake_prints_an_error_without_a_traceback(trained, tones, tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    Path("EMPTY").mkdir()
    Path("LARGE.csv").write_text(f"path\n{'a' * 200_000}\n", encoding="utf-8")
    Path("NUMBERS.jsonl").write_text("1\n2\n", encoding="utf-8")
    Path("OTHERS.jsonl").write_text('{"other": 1}\n', encoding="utf-8")
    Path("DATE.yaml").write_text("augmentations: 2020-99-99", encoding="utf-8")
    Path("LIST.yaml").write_text("augmentations:\n- Gain: [1]\n", encoding="utf-8")
    Path("GAIN.yaml").write_text("augmentations:\n- Gain: {loudness: 3}\n", encoding="utf-8")
    Path("LATIN.txt").write_bytes(b"\xe4\n")
    torch.save({1: torch.zeros(1)}, "NAMES.pt")
    for name in ("BARE", "DAMAGED"):
        shutil.copytree(trained, name, ignore=shutil.ignore_patterns("checkpoint-*", "train_options.yaml"))
    Path("DAMAGED/train_options.yaml").write_text("a: [", encoding="utf-8")
    clip = tones / "test/high/high_test_0.wav"
    replacements = {"MODEL": str(trained), "CLIP": str(clip), "DATA": str(tones)}
    argv = [replacements.get(argument, argument) for argument in argv]
    if argv[0] == "train":
        argv += ["--data_dir", str(tones), "--output_dir", "out", "--use_cpu", "true"]
    assert main(argv) == 2
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("sanet: error: ") or "\nsanet: error: " in f"\n{errors}"
    assert message in errors


def test_closed_pipe_ends_the_command_without_an_error(tmp_path):
    """`sanet predict … | head -1` closes the pipe early."""
    code = (
        "import sys; from sanet_hf.cli import main\n"
        "main._run = lambda argv: [print('x' * 1000) for _ in range(10_000)] and 0\n"
        "sys.exit(main.main([]))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 141 and not errors


def test_unknown_option_shows_the_usage_of_its_command(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["predict", "MODEL", "a.wav", "--outptu", "x.csv"])
    error = capsys.readouterr().err
    assert error.startswith("usage: sanet predict MODEL INPUT")
    assert error.endswith("sanet predict: error: unrecognized arguments: --outptu x.csv. Did you mean --output?\n")


def test_metrics_that_a_split_lacks_are_dashes(capsys):
    """AUROC needs clips of two classes."""
    training_commands._print_metrics({"train": {"accuracy": 0.9, "auroc": 0.8}, "test": {"accuracy": 1.0}})
    train, test = capsys.readouterr().out.splitlines()[-2:]
    assert train.split() == ["train", "0.900", "–", "0.800"] and test.split() == ["test", "1.000", "–", "–"]
