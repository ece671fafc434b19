"""The embedded demo data set: small aerial scenes, drawn by rule, in which few labels show too little."""

from protoseg_deploy.data.scenes.appearance import KINDS, SEEN, Kind, Mode
from protoseg_deploy.data.scenes.composing import Scene, draw_scene
from protoseg_deploy.data.scenes.writing import is_scene_folder, scene_of_split, write_scenes

__all__ = ["KINDS", "SEEN", "Kind", "Mode", "Scene", "draw_scene", "is_scene_folder", "scene_of_split", "write_scenes"]
