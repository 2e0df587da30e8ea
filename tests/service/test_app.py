"""The Serve config file names an application that is there."""

from importlib import import_module
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_deploy_file_is_what_serve_reads():
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(yaml.safe_load((ROOT / "configs/serve_deploy.yaml").read_text()))
    module, _, name = schema.applications[0].import_path.partition(":")
    assert callable(getattr(import_module(module), name))
