"""Names and statements in descriptions and agent tags as makers and hospitals write them, in many languages."""

from __future__ import annotations

import pytest

from osteo_ray.catalogue.contrast import ContrastTags, contrast_of
from osteo_ray.catalogue.phrases import compiled
from osteo_ray.catalogue.pixel_meaning import Stated, meaning_of

SPECIAL = """
Monoenergetic Plus 70 keV|Mono+ 70|MonoPlus|VMI+ 70|VMI70|MonoE 40keV [HU*]|单能量 70|單能 70|モノクロ 70
仮想単色X線|단색 70|Monoénergétique|Calcium suppression index 25|Kalziumsuppression|VNCa BM|Oedème osseux
DE Knochenmark|PureLumen|Virtual Non-Contrast|VirtualNonContrast|DE LiverVNC|Sans contraste virtuel
virtueel blanco|виртуальная нативная|虛擬平掃|가상 비조영|Iodine Map|Jodkarte|Joodkaart|Mapa jodu|карта йода
요오드 맵|Carte d'iode|DE_Iodine|UricAcidPairs|MD Water(Iodine)|Z-Eff|RhoZ|有効原子番号|原子序数
Elektronendichte|densité électronique|densidad electrónica|Stopping power ratio|DirectDensity|DirectSPR|iMAR
O-MAR|SEMAR|MetalArtifactReduction|Metallartefaktreduktion|Reducción de artefactos metálicos
L-SPINE 1.25 MAR|Leberperfusion|Neuro VPCT|CT Perfusion|Blutvolumen|AX MIP|MinIP
Maximum Intensity Projection|Knochenentfernung|減影|CBCT|O-arm 3D|faisceau conique|Kegelstrahl-CT
Rotational Angio|Digitale Volumentomographie|MVCT|MRAC|MR-CAT|MR-based sCT|疑似CT|DE_Abd 1.5 D30f F_0.5
Optimum contrast|DE Composition|Met Art Red|MetalReduction|Smart Metal|SlabMIP|MiniIP|Virtual bone free|Bone-free
XVI Pelvis|CT_sim_from_MR
"""
PLAIN = """
Iomeron 400|03-MAR-2020|12 MAR 2021|AX 5.0 B30f|Abdomen 1.0 I30f 3|monitoring|Monza|Marshall|Iohexol 350
IODINE 350 portal|Jodhaltiges KM|Water oral contrast|HAP|Bone marrow transplant|Myeloma bone marrow
CONVENTIONAL[HU]|iDose (3)|AIDR 3D|ADMIRE 3|TRUEFIDELITY|perforation|ED Abdomen|SCT Abd|MSCT abdomen
PCT abdomen|kidney stones|CA pancreas|Calcium score|bone density QCT|dynamic liver|Mar. 3, 2020|CTAC 3.75
Sn100kV|Pseudocyst|Virtual colonoscopy|CT VUE Motion|Metallic stent|s/p metal hip|DVT protocol abd|T3D
20MAR2020|Metal hip|CT from OSH|free bone fragment
"""


def _texts(block: str) -> list[str]:
    return [t for line in block.strip().splitlines() for t in line.split("|")]


def _meaning(text: str) -> str | None:
    return meaning_of(Stated(image_type="ORIGINAL\\PRIMARY\\AXIAL", description=text, kvp=True))


def test_names_of_special_reconstructions():
    assert [t for t in _texts(SPECIAL) if _meaning(t) is None] == []


def test_words_that_name_none():
    assert [(t, _meaning(t)) for t in _texts(PLAIN) if _meaning(t)] == []


AGENTS = {
    "contrast": (
        "Iomeron 400|APPLIED|YES|Y|IV|i.v.|Accupaque 300|ISOVUE-300|IOPROMID|NON IONIC 100ML|碘海醇|C+"
        "|with IV contrast|Xenetix 350 IV|IV CONTRAST 100 mL, no oral|IV & ORAL|Hexabrix|POLYETHYLEN"
        "|Airosol|OMNI & ORAL|ISOVUE & WATER|ORAL/OMNIPAQUE 350|Iohexol, water by mouth|100 CC OMNI"
    ),
    "none": (
        "NONE|NO IV CONTRAST|No IV|none given|not applied|nil|N/A|0 ml|w/o|ohne KM|kein KM|NON INJ|sans"
        "|sin contraste|senza mdc|geen|utan|ingen kontrast|bez kontrastu|без контраста|平扫|なし|NON-CON"
        "|C-|(none)|No contrast given|NC|ORAL W/O IV|oral only, no IV contrast"
    ),
    "unknown": (
        "|unknown|UNK|?|unbekannt|ORAL|PO|p.o.|per os|Gastrografin|rectal|oral contrast|Omnipaque oral|n/d|-|anonymized"
        "|ORAL & NONE|ORAL, 100 ml|NO ORAL"
    ),
}
DESCRIPTIONS = {
    "none": (
        "ABD W/O|ABD W/O IV CON|NON CON|C-|ABD C-|CT C(-)|IV-|腹部平扫|sin civ|SANS IV|APC-|diretta"
        "|sem contraste|utan kontrast|ilman varjoainetta|natiivi|bez k.l.|нативная|kontrastsız|비조영"
        "|造影なし|No IVC|W/OUT CONTRAST|contrast: none|fără contrast|χωρίς σκιαγραφικό|không thuốc"
        "|tanpa kontras|Prekontrast|without oral or IV contrast"
        "|vor KM|Abd vor KM-Gabe|avant injection|prima del mdc|antes de contraste|voor contrast|CE-|ABD CE(-)"
        "|kontrast öncesi|s/contraste|S/MDC|Thx/Abd -KM|buk utan kontr|WOUT CON|NCP"
    ),
    "contrast": (
        "post contrast|W/ CONTRAST|C+|CT C(+)|+C|增强扫描|con civ|KM i.v.|IV+|com contraste|varjoaine"
        "|z kontrastem|с контрастом|조영|CECT|cu contrast|W IV CONTRAST W/O ORAL CONTRAST|có thuốc"
        "|CE+|KM+|nach KM|après injection|ABD CE - 3mm|THORAX W/C|IV+ ORAL-|IV CON|med iv kontr"
    ),
    "unknown": (
        "SENZA/CON MDC|rektale KM-Füllung|W C-SPINE"
        "|w+w/o|W/WO|with and without contrast|mit und ohne KM|sin y con contraste|平扫+增强|oral contrast only"
        "|without oral contrast|Prone|PRE OP|post-op|SC joint|C-spine|SIMPLE cyst|Basalganglien"
        "|portable CT|"
    ),
    "arterial": "late arterial|HAP|Corticomedullary|CTPA|動脈相",
    "portal": "PVP|venös|laskimovaihe|门静脉期|temps portal",
    "delayed": "delayed 5 min|équilibre|Spätphase",
}


@pytest.mark.parametrize("want", AGENTS)
def test_agents(want):
    got = {a: contrast_of(ContrastTags(agent=a or None)) for a in AGENTS[want].split("|")}
    assert {a: g for a, g in got.items() if g != want} == {}


def test_amounts_and_times():
    assert contrast_of(ContrastTags(start_time="000000.00")) == "unknown"
    assert contrast_of(ContrastTags(start_time="101500")) == "contrast"
    assert contrast_of(ContrastTags(ingredient="IODINE")) == "contrast"
    assert contrast_of(ContrastTags(ingredient="BARIUM")) == "unknown"
    assert contrast_of(ContrastTags(agent="BARIUM", volume_ml=500)) == "unknown"


@pytest.mark.parametrize("want", DESCRIPTIONS)
def test_descriptions(want):
    got = {d: contrast_of(ContrastTags(description=d or None)) for d in DESCRIPTIONS[want].split("|")}
    assert {d: g for d, g in got.items() if g != want} == {}


def test_words_with_and_without_spaces_between_them_need_a_pattern_each():
    with pytest.raises(ValueError, match="a pattern each"):
        compiled(["(ORAL|口服)"])
