# %% [markdown]
# # A first look at an archive
#
# From a folder of DICOM files to scored studies, in one process and without a cluster. Open this file as a notebook
# (VS Code and Jupyter with jupytext read it), or run it: `python docs/examples/first_look.py /data/ct labs.csv`.
# Without a trained bundle the reference bundle scores: it has seen synthetic patients only, and its risks are no
# evidence about anybody.

# %%
import sys
from collections import Counter

import numpy as np

from osteo_ray import index_archive, load_bundle, load_records, open_slices

archive, records_file = sys.argv[1], sys.argv[2]

# %% [markdown]
# ## What is there
# Every series has a row, the excluded ones too, with a code that says why. Files that belong to no series are listed.

# %%
index = index_archive(archive)
for outcome, n in Counter(f"{s['state'] or 'OPEN'} {s['code'] or ''}" for s in index.series).most_common():
    print(f"{n:5d} series  {outcome}")
print(f"{len(index.files):5d} files in no series")

# %% [markdown]
# ## One series
# Slices are decoded when they are asked for: opening a series of 300 slices reads no pixel.

# %%
series = index.chosen[0]
with open_slices(series) as stack:
    middle = stack.hu(stack.n // 2)
    print(f"{stack.n} slices over {np.ptp(stack.z_mm):.0f} mm; the middle one {middle.shape}, to {middle.max()} HU")
    print(f"{stack.decoded} slice decoded so far")

# %% [markdown]
# ## Records
# Demographics and labs in one schema and one set of units; what is missing stays missing.

# %%
records = load_records(records_file)
of_patient = records.frame.set_index("patient_key")
print(f"{len(records)} records; a CT for {sum(s['patient_key'] in of_patient.index for s in index.chosen)} of them")

# %% [markdown]
# ## Scores
# A result is typed: what it rests on, how sure it is, or why there is none.

# %%
bundle = load_bundle()
folder = series["instances"][0]["uri"].removeprefix("file://").rpartition("/")[0]
result = bundle.score(folder, {"age_y": series["age_y"], "sex": series["sex"]})  # a record may hold labs as well
print(result.state, result.code, result.message)
print(f"age {result.age_y} from the {result.age_from}, sex {result.sex} from the {result.sex_from}")
if result.risk is not None:
    print(f"risk {result.risk:.2f} ({result.risk_low:.2f} to {result.risk_high:.2f}), {result.risk_class}")
    print(f"from {', '.join(result.modalities)}; {result.slices_decoded} of {result.slices_total} slices decoded")
    print(result.shap.sort_values("shap", key=abs, ascending=False).head(5).to_string(index=False))
for check in result.checks:
    if check.verdict != "pass":
        print(f"{check.verdict}: {check.gate} is {check.value}, {check.threshold} is asked for")

# %% [markdown]
# ## What it looked at
# The chosen slices as HU, in the order of `result.selected`.

# %%
picks = result.slices()
for chosen, hu in zip(result.selected, picks, strict=True):
    print(f"slice {chosen.index} at {chosen.z_mm:.0f} mm, weight {chosen.weight:.2f}: up to {hu.max()} HU")
