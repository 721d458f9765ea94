"""A Hugging Face Space with the page of `sanet app`. The variable SANET_MODEL of the Space names the model."""

import os
from pathlib import Path


# As in `sanet app`: shorten the time for which threads spin. This must be set before PyTorch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

from sanet_hf.inference.app import launch_app, make_app
from sanet_hf.inference.loading import load_classifier


if "SANET_MODEL" not in os.environ:
    raise SystemExit("SANET_MODEL is not set. In the settings of the Space, set it to a Hub id, such as me/voices.")
# Example clips on the page, if the folder `examples` exists.
examples = sorted(Path(__file__).parent.glob("examples/*"))
launch_app(make_app(*load_classifier(os.environ["SANET_MODEL"]), examples))
