"""The wording of training captions: what moves, how, and how fast, in many paraphrases.

Camera words mean the camera: under "pan left" the content moves right, under "pan up" it moves down. "Zoom in" makes
the content grow; rotation is the content's, as seen. Some phrases of each motion are never trained on, so that an
evaluation can ask for a motion in new words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

SLOW = ("slow", "slowly", "gentle", "gently")  # adjective, adverb, adjective, adverb
FAST = ("fast", "quickly", "quick", "rapidly")


@dataclass(frozen=True)
class Phrases:
    """Templates of one motion. {x} is what is seen, {adj} and {adv} say how fast, or nothing."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def _pan(to: str) -> Phrases:
    away = {"left": "leftwards", "right": "rightwards", "up": "upwards", "down": "downwards"}[to]
    side = to if to in ("up", "down") else f"to the {to}"
    return Phrases(
        train=(
            f"{{adj}} pan {to} over {{x}}",
            f"pan {{adv}} {to} over {{x}}",
            f"panning {{adv}} {to}, {{x}}",
            f"{{x}}, {{adj}} pan {to}",
            f"{{x}}, the camera pans {{adv}} {to}",
            f"the camera pans {{adv}} {side} over {{x}}",
            f"camera pans {{adv}} {side}, {{x}}",
            f"{{x}}, the camera slides {{adv}} {to}",
            f"the camera goes {{adv}} {to} across {{x}}",
            f"{{x}}, camera {{adv}} moving {to}",
            f"{{x}}, a {{adj}} camera movement {side}",
            f"{{adv}} panning {away} across {{x}}",
        ),
        held_out=(
            f"the camera moves {{adv}} {side}, {{x}}",
            f"{{x}}, the view pans {{adv}} {away}",
            f"{{adv}} moving the camera {to} over {{x}}",
        ),
    )


def _rotation(name: str) -> Phrases:
    return Phrases(
        train=(
            f"{{x}} rotates {{adv}} {name}",
            f"{{x}} rotating {{adv}} {name}",
            f"{{adj}} {name} rotation of {{x}}",
            f"{{x}}, {{adv}} rotating {name}",
            f"{{x}} turns {{adv}} {name}",
            f"{{x}}, rotate {{adv}} {name}",
            f"rotate {{x}} {{adv}} {name}",
            f"{{x}} spins {{adv}} {name}",
        ),
        held_out=(f"{{x}} is turning {{adv}} {name}", f"{{adv}} spinning {name}, {{x}}"),
    )


PHRASES: dict[str, Phrases] = {
    "zoom in": Phrases(
        train=(
            "{adj} zoom in on {x}",
            "zoom {adv} in on {x}",
            "zooming in {adv} on {x}",
            "the camera zooms in {adv} on {x}",
            "{x}, {adj} zoom in",
            "{x}, the camera zooms in {adv}",
            "{x}, zooming in {adv}",
            "a {adj} zoom into {x}",
            "the camera moves {adv} closer to {x}",
            "{x} comes {adv} closer",
            "{x}, camera {adv} pushing in",
        ),
        held_out=(
            "slowly zooming in on {x}",
            "the camera {adv} approaches {x}",
            "{x}, the view zooms {adv} in",
        ),
    ),
    "zoom out": Phrases(
        train=(
            "{adj} zoom out from {x}",
            "zoom {adv} out from {x}",
            "zooming out {adv} from {x}",
            "the camera zooms out {adv} from {x}",
            "{x}, {adj} zoom out",
            "{x}, the camera zooms out {adv}",
            "{x}, zooming out {adv}",
            "a {adj} zoom out of {x}",
            "the camera moves {adv} away from {x}",
            "{x} recedes {adv}",
            "{x}, camera {adv} pulling back",
        ),
        held_out=(
            "slowly zooming out from {x}",
            "the camera {adv} backs away from {x}",
            "{x}, the view zooms {adv} out",
        ),
    ),
    "pan left": _pan("left"),
    "pan right": _pan("right"),
    "pan up": _pan("up"),
    "pan down": _pan("down"),
    "rotate clockwise": _rotation("clockwise"),
    "rotate counterclockwise": _rotation("counterclockwise"),
    "shake": Phrases(
        train=(
            "{x} shakes {adv}",
            "{x}, {adj} shaking",
            "{x}, the camera shakes {adv}",
            "{x} trembles {adv}",
        ),
        held_out=("{x} is shaking {adv}", "a {adj} shaking view of {x}"),
    ),
    "still": Phrases(
        train=(
            "{x}, still",
            "a still shot of {x}",
            "{x}, the camera does not move",
            "{x}, no motion",
            "static {x}",
        ),
        held_out=("{x} stays still", "nothing moves, {x}"),
    ),
    "sway": Phrases(
        train=(
            "{x} sways {adv}",
            "{x} swaying {adv} from side to side",
            "{x}, {adj} swaying",
            "{x} swings {adv}",
        ),
        held_out=("{x} is swaying {adv}", "{x} rocks {adv} from side to side"),
    ),
    "pulse": Phrases(
        train=("{x} pulses {adv}", "{x} pulsing {adv}", "{x} grows and shrinks {adv}", "{x}, {adj} pulse"),
        held_out=("{x} is pulsing {adv}", "{x} throbs {adv}"),
    ),
    "ripple": Phrases(
        train=(
            "{x} ripples {adv}",
            "ripples run {adv} over {x}",
            "{x}, {adj} ripples",
            "{x} {adv} rippling like water",
        ),
        held_out=("{x} is rippling {adv}", "waves go {adv} through {x}"),
    ),
    "drift": Phrases(
        train=("{x} drifts {adv}", "{x} {adv} drifting", "{x} floats {adv} around", "{x}, {adj} drift"),
        held_out=("{x} is drifting {adv}", "{x} hovers {adv}"),
    ),
}

LOCAL_PHRASES: dict[str, Phrases] = {
    "bounce": Phrases(
        train=(
            "{x} bounces {adv}",
            "{x} jumping {adv} up and down",
            "{x} hops {adv}",
            "{x} jumps {adv}",
            "{x}, {adj} bouncing",
        ),
        held_out=("{x} is bouncing {adv}", "{x} leaps {adv}"),
    ),
    "breathe": Phrases(
        train=("{x} breathes {adv}", "{x} breathing {adv}", "{x}, {adj} breathing", "{x} breathes in and out {adv}"),
        held_out=("{x} is breathing {adv}", "{x} takes {adj} breaths"),
    ),
    "nod": Phrases(
        train=("{x} nods {adv}", "{x} nodding {adv}", "{x} nods its head {adv}", "{x} bows {adv}"),
        held_out=("{x} is nodding {adv}", "{x} {adv} says yes"),
    ),
    "dance": Phrases(
        train=(
            "{x} dances {adv}",
            "{x} dancing {adv}",
            "{x} wiggles {adv}",
            "{x} leans {adv} from side to side",
            "{x} moves to the music {adv}",
        ),
        held_out=("{x} is dancing {adv}", "a {adj} dance of {x}"),
    ),
    "wind": Phrases(
        train=(
            "wind blows {adv}, {x}",
            "{x} in the wind",
            "{x}, {adj} wind",
            "{x} blown {adv} by the wind",
            "{x}, the wind is blowing {adv}",
            "{x} bends {adv} in the wind",
        ),
        held_out=("a {adj} breeze moves {x}", "{x} on a windy day"),
    ),
    "waves": Phrases(
        train=(
            "waves, {x}",
            "{adj} waves run over {x}",
            "{x} waving {adv}",
            "{x} waves {adv} like a flag",
            "{x}, {adj} waves",
            "{x} flutters {adv}",
        ),
        held_out=("{x} is waving {adv}", "{x} moves {adv} in waves"),
    ),
    "run": Phrases(
        train=("{x} runs {adv}", "{x} running {adv}", "{x} walks {adv} to the right", "{x} is {adv} on its way"),
        held_out=("{x} is running {adv}", "{x} goes for a {adj} run"),
    ),
    "fly": Phrases(
        train=("{x} flies {adv}", "{x} flying {adv}", "{x} flies up {adv}", "{x} rises {adv} into the air"),
        held_out=("{x} is flying {adv}", "{x} takes off {adv}"),
    ),
    "blink": Phrases(
        train=("{x} blinks {adv}", "{x} blinking {adv}", "{x} closes and opens its eyes {adv}", "{x} winks {adv}"),
        held_out=("{x} is blinking {adv}", "{x} {adv} shuts its eyes"),
    ),
    "yawn": Phrases(
        train=("{x} yawns {adv}", "{x} yawning {adv}", "{x} opens its mouth {adv}", "{x} with a {adj} yawn"),
        held_out=("{x} is yawning {adv}", "a tired yawn, {x}"),
    ),
    "smile": Phrases(
        train=("{x} smiles {adv}", "{x} smiling {adv}", "{x} with a {adj} smile", "{x} begins to smile {adv}"),
        held_out=("{x} is smiling {adv}", "a happy smile, {x}"),
    ),
    "talk": Phrases(
        train=("{x} talks {adv}", "{x} talking {adv}", "{x} sings {adv}", "{x} eats {adv}", "{x} says something"),
        held_out=("{x} is talking {adv}", "{x} speaks {adv}"),
    ),
    "swim": Phrases(
        train=("{x} swims {adv}", "{x} swimming {adv}", "{x} swims {adv} to the right", "{x}, {adj} swimming"),
        held_out=("{x} is swimming {adv}", "{x} goes for a {adj} swim"),
    ),
    "greet": Phrases(
        train=(
            "{x} waves {adv} hello",
            "{x} waves its hand {adv}",
            "{x} waves goodbye",
            "{x} flaps {adv}",
            "{x} greets {adv}",
        ),
        held_out=("{x} is waving its hand {adv}", "{x} says hello"),
    ),
    "glow": Phrases(
        train=("{x} glows {adv}", "{x} glowing {adv}", "{x} shines {adv}", "{x} lights up {adv}", "{x}, {adj} glow"),
        held_out=("{x} is glowing {adv}", "{x} radiates light {adv}"),
    ),
    "burn": Phrases(
        train=("{x} burns {adv}", "{x} burning {adv}", "{x} on fire", "{x} in flames", "flames and heat, {x}"),
        held_out=("{x} is burning {adv}", "a fire, {x}"),
    ),
}
"""Of motions of the subject alone."""

ANIMATION_PHRASES = Phrases(
    train=(
        "{x}",
        "an animation of {x}",
        "{x} moving",
        "{x}, {tags}",
        "{x} comes alive",
        "{x} in motion, {tags}",
        "{tags}",
    ),
    held_out=("{x} is moving", "an animated {x}"),
)

_PLAIN_TAG = re.compile(r"[a-z][a-z -]{2,}")
# Slang, and words that name another motion
_TAGS_NOT_USED = set(
    re.findall(
        r"\w+",
        "arse ass bs bum dead died drugs drunk dung fart fml lust naked poo poop sexy smh turd ugly "
        "down fast left move over pan quick right rotate shake slow spin still swing turn up zoom",
    )
)


def plain_tags(label: str, tags: list[str]) -> list[str]:
    """The tags in plain words that add to the label."""
    return [
        tag
        for tag in tags
        if _PLAIN_TAG.fullmatch(tag) and tag not in label and not _TAGS_NOT_USED & set(re.split("[ -]", tag))
    ]


def noun(label: str) -> str:
    """An emoji's label as a noun phrase: "cat face" → "a cat face"; plurals and flags stay as they are."""
    word = label.replace("’", "'").replace("“", '"').replace("”", '"')
    if ": " in word or word.endswith("s") or word[:1].isupper():
        return word
    return f"{'an' if word[:1] in 'aeiou' else 'a'} {word}"


def fill(template: str, x: str, pace: str | None = None, tags: str = "", rng: np.random.Generator | None = None) -> str:
    """A caption from a template. `pace` is "slow", "fast" or None; `rng` chooses among synonyms of it."""
    adj = adv = ""
    if pace is not None:
        words = SLOW if pace == "slow" else FAST
        pick = 0 if rng is None else 2 * int(rng.integers(2))
        adj, adv = words[pick], words[pick + 1]
    text = template.format(x=x, adj=adj, adv=adv, tags=tags)
    return re.sub(r"\s+(,|$)", r"\1", " ".join(text.split())).strip(", ")


def takes_pace(template: str) -> bool:
    return "{adj}" in template or "{adv}" in template
