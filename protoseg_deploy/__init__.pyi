# What `import protoseg_deploy` gives, for type checkers; at run time names are imported when they are first used.

from protoseg_deploy.bundles import Bundle as Bundle
from protoseg_deploy.errors import ProtosegError as ProtosegError
from protoseg_deploy.evaluation.evaluate import evaluate as evaluate
from protoseg_deploy.evaluation.samples import folder_samples as folder_samples
from protoseg_deploy.exporting import export_bundle as export_bundle
from protoseg_deploy.exporting import verify_bundle as verify_bundle
from protoseg_deploy.methods import Method as Method
from protoseg_deploy.methods import build_method as build_method
from protoseg_deploy.methods import register_method as register_method
from protoseg_deploy.recipe import Recipe as Recipe
from protoseg_deploy.recipe import load_recipe as load_recipe
from protoseg_deploy.registry import register_decoder as register_decoder
from protoseg_deploy.runtimes import Runtime as Runtime
from protoseg_deploy.runtimes import open_runtime as open_runtime
from protoseg_deploy.training import train as train

__version__: str
