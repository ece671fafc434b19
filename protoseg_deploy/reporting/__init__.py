"""Results for people: pictures side by side, and the demo."""

from protoseg_deploy.reporting.demo import DemoResult, DemoRow, run_demo
from protoseg_deploy.reporting.panel import panel

__all__ = ["DemoResult", "DemoRow", "panel", "run_demo"]
