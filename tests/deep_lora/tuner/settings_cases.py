"""Pairs of settings, of a saved adapter and of one that it is loaded into, which are not the same update."""

from __future__ import annotations

from deep_lora.functional import STORED_SCALE, auto_core_scale

OTHERS = {
    "start not subtracted": ({"subtract_start": False, "init_scale": 0.3}, {}),
    "start subtracted": ({}, {"subtract_start": False, "init_scale": 0.3}),
    "small start": ({"init_scale": 1e-3}, {}),
    "scale": ({"core_scale": 1.0}, {}),
    "first format": ({"deep_lora_version": 1}, {}),
    "second format": ({"deep_lora_version": 2}, {}),
    "third format": ({"deep_lora_version": 3}, {}),
    "scale of U and V alone": ({"core_scale": STORED_SCALE * auto_core_scale(2, 0.3)}, {}),
    "scale by a hair": ({"core_scale": 1.0 + 2**-30}, {"core_scale": 1.0}),
    "variant": ({"variant": "narrow", "depth": 5}, {}),
    "other variant": ({}, {"variant": "narrow", "depth": 5}),
}
