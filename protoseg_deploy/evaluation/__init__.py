"""How well a runtime segments, and its class maps as files and pictures."""
