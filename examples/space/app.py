"""A Hugging Face Space: the page of `sanet app` for the model that the Space's variable SANET_MODEL names."""

import os
from pathlib import Path


# As in `sanet app`, before PyTorch is imported: threads do not spin for long while another process has a core.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

from sanet_hf.inference.app import launch_app, make_app
from sanet_hf.inference.loading import load_classifier


if "SANET_MODEL" not in os.environ:
    raise SystemExit("Set the variable SANET_MODEL, in the Space's settings, to the model's id, such as me/voices.")
# Clips to choose from, if you put some beside this file.
examples = sorted(Path(__file__).parent.glob("examples/*"))
launch_app(make_app(*load_classifier(os.environ["SANET_MODEL"]), examples))
