"""The embedded demo data set: small aerial scenes, drawn by rule, in which few labels show too little."""

from protoseg_deploy.data.scenes.appearance import KINDS, Kind, Mode
from protoseg_deploy.data.scenes.composing import Scene, draw_scene
from protoseg_deploy.data.scenes.writing import write_scenes

__all__ = ["KINDS", "Kind", "Mode", "Scene", "draw_scene", "write_scenes"]
