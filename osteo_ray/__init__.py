"""osteo-ray: opportunistic osteoporosis screening on CT archives.

    from osteo_ray import load_bundle
    result = load_bundle("bundle/").score("study_folder/", record={"age_y": 67, "sex": "F"})

Research use only; an aid, not a diagnosis; it cannot rule out low bone density.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("osteo-ray")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+uninstalled"


def load_bundle(path: str | None = None):
    """A `osteo_ray.screening.predictor.Scorer` over the trained model in folder `path`; None: the reference bundle."""
    from osteo_ray.model import reference
    from osteo_ray.screening.predictor import Predictor

    return Predictor.load(path or reference.bundle())
