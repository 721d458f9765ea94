# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Sounds of free games, desktops and lessons, from Debian's packages."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from sanet_hf.audio.formats import is_audio_file
from sanet_hf.errors import UsageError
from sanet_hf.training.pretraining.sounds import Licence, Sound


# Packages with at least ten sounds in Debian 12's main section, which contains only free software. Packages of the
# evaluation sets are left out (asterisk-*, fillets-ng-*, hydrogen-*, klettres-data, ktuberling-data, lmms-common,
# sonic-pi-samples), and also packages that are mostly music.
PACKAGES = """
a7xpg-data abe-data acm adonthell-data afterstep-data amoebax-data amphetamine-data angrydd ardentryst atanks-data
bambam baresip-core blockout2 boswars-data brainparty-data btanks-data bucklespring-data burgerspace bzflag-data
caveexpress-data ceferino-data coccinella colobot-common-sounds crossfire-client crrcsim-data csmash-data
cube2-data cuyo-data davegnukem-data deepin-sound-theme dopewars-data dustracing2d-data eboard emacspeak
endless-sky-data enigma-data epiphany-data etw-data excellent-bifurcation extremetuxracer-data fenrir festvox-ru
flare-game flobopuyo freeciv-data freedink-data freedroid-data freedroidrpg-data freefilesync freegish-data
freeorion-data freetennis-common frozen-bubble-data gajim gambas3-examples gamine-data
garden-of-coloured-lights-data gcin-voice geki2 geki3 gemdropx gentle gigalomania-data gl-117-data gnome-audio
gnubg-data granatier gunroar-data hedgewars-data heroes-sound-effects hex-a-hop-data holotz-castle-data icebreaker
jag jami-daemon kajongg kgoldrunner khangman kolf komi krank ktx laby lbreakout2-data lbreakouthd-data
lincity-ng-data lomiri-sounds lugaru-data madbomber-data mame-data manaplus-data marsshooter-data
mazeofgalious-data megaglest-data meritous-data micropolis-data mikutter minetest-data minetest-mod-homedecor
minetest-mod-mesecons minetest-mod-nether minetest-mod-unified-inventory mirrormagic-data monsterz-data
mu-cade-data netpanzer-data neverball-common njam-data noiz2sa-data open-invaders-data overgod-data oxygen-sounds
pachi-data parsec47-data pathological pekka-kana-2-data performous pinball-data pinball-table-gnu-data
pinball-table-hurd-data pingus-data planetblupi-common plee-the-bear-data pokerth-data powermanga-data
psi-plus-sounds pushover pychess pysiogame qabcs-data rockdodger rrootage-data sawfish-data scid-data
scorched3d-data scratch sdl-ball-data seahorse-adventures searchandrescue-data simutrans-pak64 solarwolf
sound-icons sound-theme-freedesktop starfighter-data starvoyager-data supertux-data tecnoballz-data titanion-data
tkabber torus-trooper-data trackballs-data triplea trophy-data tumiki-fighters-data tuxfootball tuxmath-data
tuxpaint-data tuxpaint-plugins-default tuxpaint-stamps-default tuxtype-data tworld-data ukui-media warmux-data
wesnoth-1.16-data widelands-data wing-data wizznic-data wordwarvi-sound workrave-data xboard yaru-theme-sound
zaz-data
""".split()

# Folders and words of file names that do not describe the sound.
NO_TAGS = set(
    """
    and audio base common data default desc file files for from game games gamedata loop new media misc ogg old
    other resources share sfx snd sound sounds soundfx src the usr var wav with
    """.split()
)
WORD = re.compile(r"[A-Z]?[a-z]{2,}|[A-Z]{3,}")
LICENSE = re.compile(r"^License:\s*(\S.*?)\s*$", re.MULTILINE)


def read_package(name: str, folder: Path) -> Iterator[Sound | Licence]:
    """
    Download a package into a folder. Yield its sounds and then its licence.

    Raises:
        UsageError: As in [`extract_package`].
    """
    root, licence = extract_package(name, folder)
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink() and is_audio_file(path):
            parts = path.relative_to(root).parts
            yield Sound(path, "/".join(parts), _tags(name, parts))
    yield licence


def extract_package(name: str, folder: Path) -> tuple[Path, Licence]:
    """
    Download a package into a folder. Nothing is installed.

    Returns:
        The folder of its files, and its licence.

    Raises:
        UsageError: apt-get or dpkg-deb is missing, or the package cannot be downloaded.
    """
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise UsageError(f"{program} is not installed. The sounds are in Debian packages: use a Debian system.")
    command = ["apt-get", "-o", "APT::Sandbox::User=root", "download", "--quiet", name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    archives = list(folder.glob("*.deb"))
    if done.returncode or not archives:
        reason = " ".join((done.stderr or done.stdout).split())
        raise UsageError(f"Cannot download the package {name} ({reason}). Run apt-get update, or check the network.")
    root = folder / "content"
    subprocess.run(["dpkg-deb", "--extract", archives[0], root], check=True)
    copyright_file = root / "usr/share/doc" / name / "copyright"
    text = copyright_file.read_text(errors="replace") if copyright_file.is_file() else ""
    return root, Licence(f"Debian package {name} {archives[0].name.split('_')[1]}", licences_in(text), text)


def licences_in(text: str) -> str:
    """Return the unique names of the licences in a Debian copyright file."""
    return ", ".join(dict.fromkeys(LICENSE.findall(text))) or "see the copyright file"


def _tags(package: str, parts: tuple[str, ...]) -> list[str]:
    """Return the folder as a tag, and the words of the path below the package's own folder."""
    words = [word.lower() for part in parts[3:] for word in WORD.findall(Path(part).stem)]
    own = {word.lower() for word in WORD.findall(package)}
    words = [word for word in dict.fromkeys(words) if len(word) > 2 and word not in NO_TAGS | own]
    return [f"folder {package}/{'/'.join(parts[3:-1])}".rstrip("/"), *words]
