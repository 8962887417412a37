"""The network's 18 classes and the tissues that they make up."""

CLASSES = (
    "background", "csf", "cerebral_cortex", "cerebral_white_matter", "lateral_ventricle", "third_ventricle",
    "fourth_ventricle", "thalamus", "caudate", "putamen", "pallidum", "hippocampus", "amygdala", "accumbens",
    "ventral_dc", "brainstem", "cerebellar_cortex", "cerebellar_white_matter",
)  # fmt: skip
NUMBER = {name: position for position, name in enumerate(CLASSES)}
GREY = tuple(
    NUMBER[name]
    for name in (
        "cerebral_cortex", "thalamus", "caudate", "putamen", "pallidum", "hippocampus", "amygdala", "accumbens",
        "cerebellar_cortex",
    )
)  # fmt: skip
"""Classes of grey matter: cortex, deep grey, cerebellar cortex."""
WHITE = tuple(NUMBER[name] for name in ("cerebral_white_matter", "ventral_dc", "brainstem", "cerebellar_white_matter"))
"""Classes counted as white matter, brainstem and ventral diencephalon among them."""
FLUID = tuple(NUMBER[name] for name in ("csf", "lateral_ventricle", "third_ventricle", "fourth_ventricle"))
"""CSF, ventricles included."""
