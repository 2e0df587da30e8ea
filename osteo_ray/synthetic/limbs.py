"""Arms, raised beside the head or lying at the side: soft tissue and bones."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from osteo_ray.synthetic.frame import DOWN, Frame
from osteo_ray.synthetic.shapes import Grid, Rod, rod


@lru_cache(maxsize=32)
def arm(f: Frame, side: int, pose: str) -> tuple[tuple[Rod, ...], tuple[Rod, ...]]:
    """(soft tissue, bones) of one arm; `side` 1 is the left one."""
    s, sc = f.shoulder, f.scale
    y = float(f.spine_y(f.t1)) + 4
    fat = 0.3 * f.fat
    thick = 0.20 * s + fat
    if pose == DOWN:
        joint = (side * (s - 30), y, f.t1 - 34 * sc)
        elbow = (side * (f.half_width * 1.02 + thick + 6), y + 20, 0.0)
        wrist = (side * (f.half_width * 1.06 + thick), y - 12, f.sacrum_top - 90 * sc)
        hand = (side * (f.half_width * 1.02 + thick - 8), y - 22, f.sacrum_top - 190 * sc)
    else:
        joint = (side * (s - 42), y, f.t1 + 4 * sc)
        elbow = (side * (s - 15), y - 35, f.t1 + 250 * sc)
        wrist, hand = elbow, elbow
    soft = [Rod(joint, elbow, thick, -102.0), Rod(joint, elbow, thick - 5 - fat, 52.0)]
    bones = [
        Rod(joint, joint, 23.5 * sc, 480.0, 1.6, 170.0),
        Rod(joint, elbow, 11.0 * sc, 1150.0, 4.0, -30.0),
    ]
    if pose == DOWN:
        soft += [
            Rod(elbow, wrist, 0.82 * thick, -102.0),
            Rod(elbow, wrist, 0.82 * thick - 4 - fat, 52.0),
            Rod(wrist, hand, 24.0 * sc, 20.0),
        ]
        for dy in (-9.0, 9.0):
            p, q = (elbow[0], elbow[1] + dy, elbow[2]), (wrist[0], wrist[1] + dy, wrist[2])
            bones.append(Rod(p, q, 6.5 * sc, 1150.0, 2.5, 20.0))
        for dx in (-14.0, -5.0, 5.0, 14.0):
            bones.append(
                Rod((wrist[0], wrist[1] + dx, wrist[2] - 40), (hand[0], hand[1] + dx, hand[2]), 4.0, 800.0, 1.2, 150.0)
            )
    return tuple(soft), tuple(bones)


def paint_soft(img: np.ndarray, g: Grid, f: Frame, pose: tuple[str, str]) -> None:
    """The arms' skin, fat and muscle; what lies nearer to the midline is painted over them."""
    for side, how in zip((-1, 1), pose, strict=True):
        for r in arm(f, side, how)[0]:
            rod(img, g, r)


def paint_bones(img: np.ndarray, g: Grid, f: Frame, pose: tuple[str, str]) -> None:
    """Humerus, radius, ulna and the hand's rays."""
    for side, how in zip((-1, 1), pose, strict=True):
        for r in arm(f, side, how)[1]:
            rod(img, g, r)
