"""Names that hospitals give to columns and tests, in several languages, as patterns: what a proposal goes by.

They are held against names in folded case, in which ß is ss.
"""

from __future__ import annotations

FEATURES: dict[str, str] = {
    "age_y": r"age|age_?y(ears)?|alter|âge|edad|età|年龄|年齡|年齢",
    "sex_male": r"sex|gender|geschlecht|sexe|sexo|sesso|性别|性別",
    "height_cm": r"height|body_?height|(körper)?gr(ö|oe)sse|taille|talla|altezza|身高|身長",
    "weight_kg": r"weight|body_?weight|(körper)?gewicht|poids|peso|体重|體重",
    "bmi": r"bmi|body_?mass_?index",
    "smoker": r"smok(er|ing|es)|raucher|fumeur|fumador|吸烟|喫煙",
    "creatinine_umol_l": r"crea(t|tinine?)?|scr|kreatinin|créatinine|creatinina|肌酐|クレアチニン",
    "urea_mmol_l": r"urea|bun|harnstoff|urée|urea_?nitrogen|尿素氮?|尿素窒素",
    "uric_acid_umol_l": r"ua|uric(_?acid)?|urate?|harns(ä|ae)ure|acide_?urique|尿酸",
    "glucose_mmol_l": r"glu(c|cose|kose)?|fbg|fpg|blood_?sugar|glycémie|glucosa|血糖|葡萄糖|グルコース",
    "tc_mmol_l": r"t?chol(esterol|esterin)?|total_?cholesterol|gesamtcholesterin|tc|总胆固醇|総コレステロール",
    "hdl_mmol_l": r"hdl(_c|c|_?chol(esterol|esterin)?)?|高密度脂蛋白",
    "ldl_mmol_l": r"ldl(_c|c|_?chol(esterol|esterin)?)?|低密度脂蛋白",
    "tg_mmol_l": r"tg|trig(lycerides?)?|trigly[zc]eride?|甘油三酯|中性脂肪",
    "alt_u_l": r"alt|alat|sgpt|gpt|谷丙转氨酶",
    "ast_u_l": r"ast|asat|sgot|got|谷草转氨酶",
    "alp_u_l": r"alp|ap|alk_?phos|alkaline_?phosphatase|alkalische_?phosphatase|碱性磷酸酶",
    "ggt_u_l": r"ggt|gamma_?gt|γ_?gt(p)?|谷氨酰转肽酶",
    "albumin_g_l": r"alb(umine?)?|albúmina|白蛋白|アルブミン",
    "total_protein_g_l": r"tp|total_?protein|gesamteiweiss|总蛋白|総蛋白",
    "bilirubin_umol_l": r"t?bil(i|irubine?)?|total_?bilirubin|bilirubin_?gesamt|总胆红素|総ビリルビン",
    "calcium_mmol_l": r"ca|calcium|[ck]al[cz]ium|calcio|钙|カルシウム",
    "phosphate_mmol_l": r"p|phos(phate|phorus)?|phosphat|磷|リン",
    "haemoglobin_g_l": r"hb|hgb|ha?emoglobine?|hämoglobin|hémoglobine|hemoglobina|血红蛋白|ヘモグロビン",
    "wbc_10e9_l": r"wbc|leu[ck]o(cytes|zyten)?|white_?(blood_?)?cells?|白细胞|白血球(数)?",
    "platelets_10e9_l": r"plt|platelets?|thrombo(cytes|zyten)|plaquettes|血小板(数)?",
    "urine_creatinine_mmol_l": r"u(rine)?_?crea(t|tinine)?|尿肌酐",
    "urine_albumin_mg_l": r"u(rine)?_?alb(umin)?|microalbumin|尿微量白蛋白",
}
PATIENT = (
    r"mrn|pid|ipp|patient|paciente|(patient(en|s)?|pat|subject|person)_?(id|no|nr|num(mer|ber)?|nummer|key)|病历号|患者(id|番号)|门诊号|住院号",
    r"(id|key)|case_?id",
    r"(no|nr|num(ber)?)",
)
"""Of the patient's number, the surest first."""
DATE = (
    r"((record|lab|sample|specimen|collect(ion|ed)?|chart|draw|drawn|visit|exam|test|result|abnahme|entnahme)_?)?"
    r"(on|at|date|time|datetime|datum|zeit)|drawn|collected|collection|fecha|date_?prélèvement|日期|采样时间|检查日期|採血日|検査日"
)
BIRTH = (
    r"(dob|birth_?(date|day)?|date_?of_?birth|geburtsdatum|geb_?dat(um)?|date_?(de_?)?naissance|fecha_?nacimiento"
    r"|出生日期|生年月日)"
)
T_SCORE = r"(.*[_\d\W])?t_?(score|wert).*|.*(dxa|bmd|hip|spine|neck|femur|lws|hüfte)t_?(score|wert).*|dxa_?t|.*t值"
DXA_DATE = r"(dxa|bmd|dexa)_?(on|date|datum|time)"
TEST = r"test|test_?(name|code)|analyte|item|parameter|loinc|code|analyse|项目(名称)?|检验项目|検査項目"
VALUE = r"value|result|result_?value|wert|ergebnis|结果|检验结果|結果"
UNIT = r"units?|uom|einheit|unité|unidad|单位|単位"
WITHDRAWN = r"((result|record|order|test|row)_?)?status|state|befundstatus|status_?code|estado|statut|状态|状態"
SITE = r"site|hospital|facility|centre|center|klinik|医院|院区|施設"
TREATMENT = r"(osteoporosis_?)?treat(ed|ment)|bisphosphonates?|anti_?(resorptives?|osteoporo\w*)"
# H and M are hombre and mujer, or homme and masculin: H is left to a person.
_MALE = ("m", "male", "man", "männlich", "mann", "homme", "masculin", "masculino", "hombre", "男", "男性")
_FEMALE = ("f", "female", "woman", "w", "weiblich", "frau", "femme", "féminin", "femenino", "mujer", "女", "女性")
SEXES = dict.fromkeys(_MALE, 1) | dict.fromkeys(_FEMALE, 0)
YES = dict.fromkeys(("y", "yes", "true", "1", "ja", "j", "oui", "sí", "是"), 1)
YES |= dict.fromkeys(("n", "no", "false", "0", "nein", "non", "never", "former", "否"), 0)
