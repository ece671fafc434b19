"""What the files of runs, bundles and benchmarks say, as plain data; nothing here writes anything."""

from protoseg_deploy.reporting.facts.bench import BenchFacts, BenchRow, bench_facts
from protoseg_deploy.reporting.facts.bundle import BundleFacts, bundle_facts
from protoseg_deploy.reporting.facts.data import DataFacts, data_facts
from protoseg_deploy.reporting.facts.licence import WeightsLicence, licence_of_weights
from protoseg_deploy.reporting.facts.recipe import RecipeLine, recipe_lines
from protoseg_deploy.reporting.facts.run import EvaluationFacts, NetworkFacts, PrototypeUse, RunFacts, run_facts
from protoseg_deploy.reporting.facts.subjects import Subjects, find_subjects

__all__ = [
    "BenchFacts",
    "BenchRow",
    "BundleFacts",
    "DataFacts",
    "EvaluationFacts",
    "NetworkFacts",
    "PrototypeUse",
    "RecipeLine",
    "RunFacts",
    "Subjects",
    "WeightsLicence",
    "bench_facts",
    "bundle_facts",
    "data_facts",
    "find_subjects",
    "licence_of_weights",
    "recipe_lines",
    "run_facts",
]
