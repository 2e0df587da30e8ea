"""What this machine has: versions, cores, GPUs, codecs. For `osteo-ray doctor`."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

from osteo_ray.commands import TRAINING_PACKAGES, Command
from osteo_ray.config import Section

PACKAGES = ("ray", "numpy", "pandas", "pyarrow", "pydicom", "imagecodecs", "onnxruntime", "scikit-learn", "shap")


class DoctorJob(Section):
    """`osteo-ray doctor` takes no keys."""


def doctor(job: DoctorJob) -> list[str]:
    """A report for a terminal; imports only what it reports on."""
    from osteo_ray import __version__
    from osteo_ray.dicom.stack import codecs_present

    gib = 2**30
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / gib
    out = [
        f"osteo-ray     {__version__}",
        f"python        {platform.python_version()} on {platform.system()} {platform.machine()}",
        *(f"{p:13s} {_version(p, 'osteo-ray')}" for p in PACKAGES),
        *(f"{p:13s} {_version(p, 'osteo-ray[train]')}" for p in TRAINING_PACKAGES),
        f"cores         {len(os.sched_getaffinity(0))}",
        f"memory        {memory:.1f} GiB",
        f"/dev/shm      {shutil.disk_usage('/dev/shm').free / gib:.1f} GiB free",
        f"GPUs          {', '.join(_gpus()) or 'none'}",
        f"Ray address   {os.environ.get('RAY_ADDRESS', 'none: Ray starts on this machine')}",
    ]
    return out + [f"codec         {name}: {how}" for name, how in codecs_present().items()]


def _gpus() -> list[str]:
    try:
        import torch
    except ModuleNotFoundError:
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _version(package: str, brought_by: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return f"missing: pip install '{brought_by}' brings it"


COMMAND = Command(DoctorJob, doctor)
