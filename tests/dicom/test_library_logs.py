"""Logs and warnings of the DICOM libraries name no patient."""

import subprocess
import sys

CODE = """
import io, logging, sys, warnings
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
if sys.argv[1] == "kept out":
    from osteo_ray.dicom.library_logs import keep_values_out
    keep_values_out()
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
warnings.simplefilter("ignore")
from pydicom import config
config.settings.writing_validation_mode = config.IGNORE
ds = Dataset()
ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, "1.2.3"
ds.PatientName, ds.PatientAge, ds.StudyInstanceUID = "Sonnenschein^" + "x" * 99, "Sonnenschein", "Sonnenschein"
ds.PatientBirthDate = "Sonnenschein"
ds.file_meta = FileMetaDataset()
ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
out = io.BytesIO()
ds.save_as(out, enforce_file_format=True)
if sys.argv[1] != "kept out":
    warnings.simplefilter("default")
read = dcmread(io.BytesIO(out.getvalue()))
for e in read:
    e.value
logging.getLogger("pydicom").warning("Invalid value %s", "Sonnenschein")
"""


def said(how: str) -> str:
    return subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True).stderr


def test_values_are_kept_out_of_logs_and_warnings():
    assert "Sonnenschein" in said("as it is"), "else the test shows nothing"
    assert "Sonnenschein" not in said("kept out")
